//! The audit of an order's transitions: each must be the one after the last.

/// What an audit knows of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditTrail {
    /// The highest transition seen.
    pub applied_seq: i64,
    /// How many transitions came that were not the one after the highest seen.
    pub out_of_order: i64,
}

impl AuditTrail {
    /// Takes note of a transition.
    pub fn observe(&mut self, seq: i64) {
        if seq != self.applied_seq + 1 {
            self.out_of_order += 1;
        }
        self.applied_seq = self.applied_seq.max(seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_by_one_is_in_order() {
        let mut trail = AuditTrail::default();
        for seq in [1, 2, 3] {
            trail.observe(seq);
        }
        assert_eq!(trail, AuditTrail { applied_seq: 3, out_of_order: 0 });
    }

    #[test]
    fn a_gap_and_what_does_not_rise_are_counted() {
        let mut trail = AuditTrail::default();
        // 3 leaves out 2; 2 and the second 3 come late.
        for seq in [1, 3, 2, 3, 4] {
            trail.observe(seq);
        }
        assert_eq!(trail, AuditTrail { applied_seq: 4, out_of_order: 3 });
    }
}
