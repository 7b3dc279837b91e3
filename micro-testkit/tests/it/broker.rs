//! The broker suite against honest and broken brokers.

use std::{sync::Arc, time::Duration};

use micro_core::broker::{Broker, MemoryBroker, Message};
use micro_testkit::{
    Fixture, Missing, breaks,
    broker::{self, BrokenBroker, BrokerFault, BrokerFixture},
    unique,
};

struct Sending(Arc<BrokenBroker>);

impl Sending {
    fn with(fault: impl Into<Option<BrokerFault>>) -> Self {
        Self(Arc::new(BrokenBroker::new(Arc::new(MemoryBroker::new()), fault)))
    }
}

impl Fixture for Sending {
    async fn start() -> Result<Self, Missing> {
        Ok(Self::with(None))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }
}

impl BrokerFixture for Sending {
    fn broker(&self) -> Arc<dyn Broker> {
        self.0.clone()
    }

    async fn topic(&self) -> String {
        unique("topic")
    }

    fn refused(&self) -> Message {
        Message::unkeyed("", "no topic")
    }
}

mod unbroken {
    micro_testkit::broker_conformance!(super::Sending);
}

/// A test that `promise` fails for each fault, with time paused: the patience costs nothing.
macro_rules! can_fail {
    ($test:ident: $promise:ident, $($fault:ident => $reason:literal),+) => {
        #[tokio::test(start_paused = true)]
        async fn $test() {
            $(
                let fixture = Sending::with(BrokerFault::$fault);
                let reason = breaks(stringify!($promise), broker::$promise(&fixture)).await;
                assert!(reason.contains($reason), "{}: {reason}", stringify!($fault));
            )+
        }
    };
}

can_fail!(
    same_key_keeps_publish_order_can_fail: same_key_keeps_publish_order,
    ReordersMessages => "the order of key a"
);
can_fail!(
    publish_enqueues_can_fail: publish_enqueues_in_slice_order_before_it_first_awaits,
    AwaitsBeforeItEnqueues => "the first call's messages come first",
    ReordersMessages => "the first call's messages come first"
);
can_fail!(
    every_message_gets_its_own_result_can_fail: every_message_gets_its_own_result,
    FailsNeighbours => "a neighbour of the refused message is sent",
    SwapsResults => "is another message's"
);
can_fail!(
    each_group_receives_every_message_can_fail: each_group_receives_every_message,
    MixesGroups => "each group receives every message: not within",
    SeparatesMembers => "the members together receive each message once"
);
can_fail!(
    what_is_not_acked_comes_again_can_fail: what_is_not_acked_comes_again,
    AcksOnDelivery => "0 of 6 deliveries came",
    ForgetsAcks => "from the last acked position, after a close",
    StampsOnDelivery => "a delivery comes again as it came before"
);
can_fail!(
    a_new_group_can_fail: a_new_group_starts_at_the_earliest_message,
    StartsAtTheLatest => "0 of 3 deliveries came"
);
can_fail!(
    key_headers_and_body_arrive_unchanged_can_fail: key_headers_and_body_arrive_unchanged,
    ChangesHeaders => "came as"
);
can_fail!(
    flush_can_fail: flush_returns_when_everything_handed_in_is_settled_or_the_deadline_passed,
    FlushesAtOnce => "flush returned before everything handed in had its result",
    FlushesForEver => "flush returns at its deadline: not within"
);
can_fail!(
    a_paused_partition_can_fail: a_paused_partition_delivers_nothing_until_it_is_resumed,
    IgnoresPause => "a paused partition delivered",
    IgnoresResume => "0 of 1 deliveries came"
);
can_fail!(
    a_revoked_partition_waits_for_its_guard_can_fail: a_revoked_partition_waits_for_its_guard,
    IgnoresGuards => "the guard is held",
    ForgetsAcks => "came again"
);
can_fail!(
    a_closed_subscription_has_no_next_can_fail: a_closed_subscription_has_no_next,
    IgnoresClose => "a waiting next ends with the close: not within"
);
