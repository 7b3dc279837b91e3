//! Rows that somebody else spoiled, on every database.

use std::time::{Duration, UNIX_EPOCH};

use micro_core::{
    Error, ErrorKind, TransactionManagerExt as _,
    broker::{Delivery, Message},
    outbox::OutboxCounts,
    parked::{DeadLetter, Parking},
};
use micro_tx::SqlDatabase;

/// One of three rows of each table cannot be read: the others can, and it is seen.
pub(crate) async fn rows_that_somebody_spoiled_hide_no_others(database: &SqlDatabase) {
    let deliveries = [0_u8, 1, 2].map(|number| Delivery {
        message: Message::keyed("t", vec![number], vec![number]).with_header("micro-event-id", number.to_string()),
        partition: 0,
        offset: number.into(),
        timestamp: UNIX_EPOCH,
    });
    let cause = Error::new(ErrorKind::Internal, "test", "no luck");
    database
        .run(async |tx| {
            for delivery in &deliveries {
                let delay = Some(Duration::ZERO);
                let parking = Parking { group: "g", delivery, attempts: 1, cause: "test", delay };
                database.outbox().add(tx, std::slice::from_ref(&delivery.message)).await?;
                database.parked().park(tx, &parking).await?;
                assert!(database.dead_letters().add(tx, &DeadLetter::new("g", delivery, &cause, 1)).await?);
            }
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    for table in ["micro_outbox", "micro_parked", "micro_dead_letters"] {
        let spoil = format!("UPDATE {table} SET headers = 'no json' WHERE body = ?");
        assert_eq!(database.execute(&spoil, &[vec![1_u8].into()]).await.unwrap(), 1);
    }

    let mut shard = database.outbox().own(0).await.unwrap().unwrap();
    let unsent: Vec<_> = shard.unsent(&[], &[], 10).await.unwrap().into_iter().map(|row| row.message).collect();
    assert_eq!(unsent, [deliveries[0].message.clone(), deliveries[2].message.clone()]);
    assert_eq!(database.outbox().counts().await.unwrap(), OutboxCounts { unsent: 2, parked: 1 });

    // Its key is held: what follows it must not go before it.
    for _ in 0..2 {
        let due = database.parked().due("g", 10).await.unwrap();
        assert_eq!(due.iter().map(|row| row.delivery.offset).collect::<Vec<_>>(), [0, 2]);
    }
    let held = "SELECT cause FROM micro_parked WHERE due_at IS NULL";
    let causes = database.fetch_all(held, &[]).await.unwrap();
    assert!(causes.len() == 1 && causes[0].get::<String>(0).unwrap().contains("headers"), "{causes:?}");

    let letters = database.dead_letters().list("g", 10).await.unwrap();
    let kinds: Vec<_> = letters.iter().map(|letter| letter.kind).collect();
    assert_eq!(kinds, [ErrorKind::Internal, ErrorKind::DataLoss, ErrorKind::Internal]);
    assert!(letters[1].cause.contains("cannot be read back"), "{}", letters[1].cause);
    let unreadable = database.dead_letters().find("g", &letters[1].event_id).await.unwrap_err();
    assert_eq!(unreadable.kind(), ErrorKind::DataLoss);
    let event_id = letters[1].event_id.as_str();
    assert!(database.run(async |tx| database.dead_letters().remove(tx, "g", event_id).await).await.unwrap());
}
