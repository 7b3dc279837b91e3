//! The audit of an order's transitions: each must come after the one before.

/// What an audit knows of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditTrail {
    /// The highest transition seen.
    pub applied_seq: i64,
    /// How many transitions came that were not above the highest seen.
    pub out_of_order: i64,
}

impl AuditTrail {
    /// Takes note of a transition.
    pub fn observe(&mut self, seq: i64) {
        if seq > self.applied_seq {
            self.applied_seq = seq;
        } else {
            self.out_of_order += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_rise_is_counted() {
        let mut trail = AuditTrail::default();
        for seq in [1, 3, 2, 3, 4] {
            trail.observe(seq);
        }
        assert_eq!(trail, AuditTrail { applied_seq: 4, out_of_order: 2 });
    }
}
