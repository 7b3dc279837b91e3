//! The suites of transactions and stores against honest and broken ones.

use std::{sync::Arc, time::Duration};

use micro_core::{
    Result, TransactionManager, Tx,
    barrier::BarrierStore,
    inbox::InboxStore,
    outbox::OutboxStore,
    parked::{DeadLetterStore, ParkedStore},
    saga::SagaLog,
    transaction::{MemoryDatabase, MemoryTxExt as _},
};
use micro_testkit::{
    Fixture, Missing,
    barrier::{BarrierFault, BrokenBarrier},
    breaks,
    inbox::{BrokenInbox, InboxFault},
    outbox::{BrokenOutbox, OutboxFault},
    parked::{BrokenDeadLetters, BrokenParked, DeadLetterFault, ParkedFault},
    saga::{BrokenSagaLog, SagaLogFault, SagaLogFixture},
    transaction::{BrokenTransactionManager, DatabaseFixture, TransactionFault},
};

/// A memory database of which one part breaks one promise, or none.
struct Database {
    memory: MemoryDatabase,
    other: MemoryDatabase,
    transactions: Arc<BrokenTransactionManager>,
    outbox: Arc<BrokenOutbox>,
    inbox: Arc<BrokenInbox>,
    barrier: Arc<BrokenBarrier>,
    parked: Arc<BrokenParked>,
    dead_letters: Arc<BrokenDeadLetters>,
    saga_log: Arc<BrokenSagaLog>,
}

impl Database {
    fn honest() -> Self {
        let memory = MemoryDatabase::new();
        Self {
            transactions: Arc::new(BrokenTransactionManager::new(memory.transactions(), None)),
            outbox: Arc::new(BrokenOutbox::new(memory.outbox(), None)),
            inbox: Arc::new(BrokenInbox::new(memory.inbox(), None)),
            barrier: Arc::new(BrokenBarrier::new(memory.barrier(), None)),
            parked: Arc::new(BrokenParked::new(memory.parked(), None)),
            dead_letters: Arc::new(BrokenDeadLetters::new(memory.dead_letters(), None)),
            saga_log: Arc::new(BrokenSagaLog::new(memory.saga_log(), None)),
            other: MemoryDatabase::new(),
            memory,
        }
    }
}

impl From<TransactionFault> for Database {
    fn from(fault: TransactionFault) -> Self {
        let mut database = Self::honest();
        database.transactions = Arc::new(BrokenTransactionManager::new(database.memory.transactions(), fault));
        database
    }
}

impl From<OutboxFault> for Database {
    fn from(fault: OutboxFault) -> Self {
        let mut database = Self::honest();
        database.outbox = Arc::new(BrokenOutbox::new(database.memory.outbox(), fault));
        database
    }
}

impl From<InboxFault> for Database {
    fn from(fault: InboxFault) -> Self {
        let mut database = Self::honest();
        database.inbox = Arc::new(BrokenInbox::new(database.memory.inbox(), fault));
        database
    }
}

impl From<BarrierFault> for Database {
    fn from(fault: BarrierFault) -> Self {
        let mut database = Self::honest();
        database.barrier = Arc::new(BrokenBarrier::new(database.memory.barrier(), fault));
        database
    }
}

impl From<ParkedFault> for Database {
    fn from(fault: ParkedFault) -> Self {
        let mut database = Self::honest();
        database.parked = Arc::new(BrokenParked::new(database.memory.parked(), fault));
        database
    }
}

impl From<DeadLetterFault> for Database {
    fn from(fault: DeadLetterFault) -> Self {
        let mut database = Self::honest();
        database.dead_letters = Arc::new(BrokenDeadLetters::new(database.memory.dead_letters(), fault));
        database
    }
}

impl From<SagaLogFault> for Database {
    fn from(fault: SagaLogFault) -> Self {
        let mut database = Self::honest();
        database.saga_log = Arc::new(BrokenSagaLog::new(database.memory.saga_log(), fault));
        database
    }
}

impl Fixture for Database {
    async fn start() -> Result<Self, Missing> {
        Ok(Self::honest())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }
}

impl DatabaseFixture for Database {
    fn transactions(&self) -> Arc<dyn TransactionManager> {
        self.transactions.clone()
    }

    fn other(&self) -> Arc<dyn TransactionManager> {
        self.other.transactions()
    }

    fn outbox(&self) -> Arc<dyn OutboxStore> {
        self.outbox.clone()
    }

    async fn outbox_causes(&self) -> Result<Vec<String>> {
        Ok(self.memory.outbox().parked().into_iter().map(|(_, cause)| cause).collect())
    }

    fn inbox(&self) -> Arc<dyn InboxStore> {
        self.inbox.clone()
    }

    fn barrier(&self) -> Arc<dyn BarrierStore> {
        self.barrier.clone()
    }

    fn parked(&self) -> Arc<dyn ParkedStore> {
        self.parked.clone()
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetterStore> {
        self.dead_letters.clone()
    }

    async fn write(&self, tx: &mut Tx, key: &str, value: &str) -> Result<()> {
        tx.put("orders", key, value.to_owned())
    }

    async fn read(&self, key: &str) -> Result<Option<String>> {
        Ok(self.memory.read("orders", key).map(|value| String::from_utf8_lossy(&value).into_owned()))
    }
}

impl SagaLogFixture for Database {
    fn saga_log(&self) -> Arc<dyn SagaLog> {
        self.saga_log.clone()
    }
}

mod honest {
    mod transaction {
        micro_testkit::transaction_conformance!(super::super::Database);
    }

    mod outbox {
        micro_testkit::outbox_conformance!(super::super::Database);
    }

    mod inbox {
        micro_testkit::inbox_conformance!(super::super::Database);
    }

    mod barrier {
        micro_testkit::barrier_conformance!(super::super::Database);
    }

    mod parked {
        micro_testkit::parked_conformance!(super::super::Database);
    }

    mod saga {
        micro_testkit::saga_log_conformance!(super::super::Database);
    }
}

/// For each promise a test that it fails for each fault, with time paused: the patience costs nothing.
macro_rules! can_fail {
    ($module:ident: $($promise:ident: $($fault:path => $reason:literal),+;)+) => {
        mod $module {
            use super::*;

            $(
                #[tokio::test(start_paused = true)]
                async fn $promise() {
                    $(
                        let fixture = Database::from($fault);
                        let reason = breaks(stringify!($promise), micro_testkit::$module::$promise(&fixture)).await;
                        assert!(reason.contains($reason), "{:?}: {reason}", $fault);
                    )+
                }
            )+
        }
    };
}

mod can_fail {
    use super::*;

    can_fail!(transaction:
        a_commit_is_visible_and_a_rollback_is_not:
            TransactionFault::CommitsNothing => "a committed row is not seen",
            TransactionFault::RollsForward => "a row that was rolled back is seen";
        a_dropped_tx_is_rolled_back:
            TransactionFault::RollsForward => "a row of a dropped transaction is seen",
            TransactionFault::LeaksDropped => "a transaction stayed open";
        a_cancelled_begin_leaves_nothing_open:
            TransactionFault::LeaksCancelledBegin => "a transaction stayed open";
        a_cancelled_commit_still_ends:
            TransactionFault::CommitsNothing => "the next one's commit is not seen",
            TransactionFault::LeaksCommitted => "a transaction begins in time";
        stores_refuse_the_tx_of_another_manager:
            OutboxFault::TakesForeignTx => "outbox.add took",
            InboxFault::TakesForeignTx => "inbox.claim took",
            BarrierFault::TakesForeignTx => "barrier.enter took",
            ParkedFault::TakesForeignTx => "parked.park took",
            DeadLetterFault::TakesForeignTx => "dead_letters.add took";
    );

    can_fail!(outbox:
        a_row_is_unsent_exactly_when_its_transaction_committed:
            OutboxFault::LosesRows => "two rows are unsent",
            OutboxFault::ShowsUncommitted => "rows are unsent before their commit";
        unsent_rows_come_in_the_order_they_were_added:
            OutboxFault::Reverses => "out of order",
            OutboxFault::HasACursor => "out of order";
        known_rows_are_left_out:
            OutboxFault::ForgetsKnown => "the oldest unknown rows are read";
        topics_can_be_left_out:
            OutboxFault::ForgetsTopics => "the oldest rows of other topics";
        rows_of_one_key_share_a_shard:
            OutboxFault::Scatters => "a row is in the shard of another key",
            OutboxFault::LosesRows => "every row is in one shard";
        a_shard_has_one_owner:
            OutboxFault::SharesShards => "a shard has two owners",
            OutboxFault::KeepsShards => "a dropped shard can be owned";
        sent_rows_are_gone_and_parked_rows_are_kept_with_their_cause:
            OutboxFault::KeepsSent => "one row is unsent",
            OutboxFault::LosesParked => "parked: 0",
            OutboxFault::ForgetsCauses => "a parked row keeps its cause";
        committed_misses_no_commit:
            OutboxFault::MissesCommits => "the commit was missed";
    );

    can_fail!(inbox:
        an_id_is_new_once_per_group:
            InboxFault::ForgetsClaims => "the answers are in slice order",
            InboxFault::MixesGroups => "another group has ids of its own",
            InboxFault::Reverses => "the answers are in slice order";
        a_rolled_back_claim_is_new_again:
            InboxFault::ClaimsAtOnce => "a claim that was rolled back counts";
        an_id_twice_in_one_claim_is_new_once:
            InboxFault::RepeatsNew => "the first occurrence alone is new",
            InboxFault::ForgetsClaims => "the first occurrence alone is new";
        purge_forgets_only_what_is_older:
            InboxFault::PurgesYoung => "nothing is so old",
            InboxFault::PurgesNothing => "a purge has a limit",
            InboxFault::PurgesAll => "a purge has a limit";
    );

    can_fail!(barrier:
        a_branch_proceeds_once:
            BarrierFault::LetsDuplicatesThrough => "a call proceeds twice";
        a_rolled_back_passage_is_open_again:
            BarrierFault::EntersAtOnce => "a passage that was rolled back counts";
        an_undoing_without_its_action_is_empty_and_stops_the_action:
            BarrierFault::LetsEmptyThrough => "there is nothing to undo",
            BarrierFault::LetsDuplicatesThrough => "an undoing came before",
            BarrierFault::LetsOvertakenThrough => "an undoing came first";
        an_undoing_after_its_action_proceeds_once:
            BarrierFault::RefusesUndoings => "what took effect is undone",
            BarrierFault::LetsDuplicatesThrough => "it is undone twice";
        barriers_of_one_call_are_counted_apart:
            BarrierFault::HasOneBarrier => "the second barrier of a call is one of its own",
            BarrierFault::RefusesUndoings => "each barrier has its undoing";
        branches_and_transactions_do_not_know_each_other:
            BarrierFault::MixesBranches => "it is a branch of its own",
            BarrierFault::MixesTransactions => "it is a branch of its own";
        a_message_that_was_asked_about_before_its_commit_is_rolled_back_for_good:
            BarrierFault::ForbidsNothing => "it took place although it was said that it does not",
            BarrierFault::BelievesInMessages => "there was no local transaction",
            BarrierFault::LetsOvertakenThrough => "it took place although it was said that it does not",
            BarrierFault::LetsDuplicatesThrough => "the local transaction of a message took place twice";
        purge_forgets_only_what_is_older:
            BarrierFault::PurgesYoung => "nothing is so old",
            BarrierFault::PurgesNothing => "a purge has a limit",
            BarrierFault::PurgesAll => "a purge has a limit";
    );

    can_fail!(parked:
        a_parked_row_exists_exactly_when_its_transaction_committed:
            ParkedFault::TakesForeignTx => "a committed row is there",
            ParkedFault::CountsUncommitted => "a row is there before its commit";
        only_the_head_of_a_key_is_due:
            ParkedFault::IgnoresQueues => "the heads that are due",
            ParkedFault::IgnoresDelays => "the heads that are due",
            ParkedFault::Reverses => "the longest due first";
        is_blocked_names_the_keys_that_have_rows:
            ParkedFault::BlocksNothing => "the deliveries of the keys that have rows",
            ParkedFault::BlocksEverything => "the deliveries of the keys that have rows";
        remove_answers_true_once:
            ParkedFault::RemovesAgain => "a row was removed twice";
        a_held_key_is_not_due_until_it_is_released:
            ParkedFault::HoldsNothing => "a held key is due",
            ParkedFault::PostponesHeld => "a held row was postponed",
            ParkedFault::ReleasesNothing => "a delivery that only waits was released";
        a_dead_letter_is_unique_by_group_and_event_id:
            DeadLetterFault::RepeatsLetters => "the second letter of an event answers false",
            DeadLetterFault::KeepsTheLast => "the second one changed the first";
        a_dead_letter_keeps_its_delivery_cause_attempts_and_origin:
            DeadLetterFault::ForgetsCauses => "a letter keeps its kind and cause",
            DeadLetterFault::ForgetsOrigins => "a letter keeps its delivery and origin";
        a_dead_letter_is_found_by_group_and_event_id:
            DeadLetterFault::FindsTheFirst => "the letter of the event is found";
        a_removed_dead_letter_is_gone:
            DeadLetterFault::RemovesNothing => "a letter is removed once";
    );

    can_fail!(saga:
        a_saga_is_due_exactly_when_its_transaction_committed:
            SagaLogFault::LosesSagas => "unfinished: 0",
            SagaLogFault::ShowsUncommitted => "sagas are due before their commit",
            SagaLogFault::ForgetsOptions => "a saga comes back as it was added",
            SagaLogFault::TakesForeignTx => "another manager's transaction is refused";
        a_gid_is_added_once:
            SagaLogFault::TakesGidsAgain => "a gid is added twice";
        a_saga_has_one_holder_until_its_lease_ends:
            SagaLogFault::SharesSagas => "each saga has one holder",
            SagaLogFault::EndsLeases => "each saga has one holder",
            SagaLogFault::KeepsLeases => "a lease ends",
            SagaLogFault::HidesAbandonment => "the next holder is told";
        a_saga_that_is_added_held_is_not_due_before_its_lease_ends:
            SagaLogFault::AddsFree => "a saga that is held is due",
            SagaLogFault::KeepsLeases => "the lease of an addition ends";
        a_renewed_lease_lasts_longer:
            SagaLogFault::RenewsNothing => "one saga is due";
        a_lost_lease_writes_nothing:
            SagaLogFault::WritesLost => "the lease of the second is lost",
            SagaLogFault::TellsNoLoss => "the lease of the second is lost";
        a_waiting_saga_is_due_after_its_pause_with_its_progress:
            SagaLogFault::SkipsPauses => "a saga that waits is due",
            SagaLogFault::ForgetsProgress => "it comes back as it was given back",
            SagaLogFault::AbandonsWaiting => "it comes back as it was given back";
        what_was_recorded_is_found_by_the_next_holder:
            SagaLogFault::ForgetsProgress => "what was recorded is found";
        a_parked_saga_is_not_due_and_is_counted:
            SagaLogFault::ReleasesParked => "a parked saga is due";
        a_finished_saga_is_not_due_and_keeps_its_outcome:
            SagaLogFault::ForgetsOutcomes => "an end is kept",
            SagaLogFault::KeepsRemoved => "an end is kept";
        those_due_longest_come_first:
            SagaLogFault::Reverses => "those due longest come first",
            SagaLogFault::IgnoresLimits => "at most as many as are asked for";
        purge_forgets_only_what_finished_earlier:
            SagaLogFault::NeverPurges => "a purge has a limit",
            SagaLogFault::PurgesAll => "nothing is so old";
    );
}
