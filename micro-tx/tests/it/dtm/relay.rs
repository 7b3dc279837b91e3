//! A saga relay to DTM: what DTM cannot keep is refused before the commit, and what it refuses all the same
//! is parked with its words.

use std::{sync::Arc, time::Duration};

use dev_servers::Kind;
use micro_core::{
    Error, ErrorKind, Health, TransactionManagerExt as _, Tx,
    app::{Component as _, ComponentExt as _},
    saga::{Saga, SagaCounts, SagaOutbox as _, SagaRelay, Step},
    transaction::MemoryDatabase,
};
use micro_testkit::eventually;
use micro_tx::dtm::{DtmClient, DtmConfig, StoreLimits, TransactionStatus::Succeeded};

use super::stage::{PATIENCE, Stage, Wire, impatient, patient};

/// One more than a column of DTM's store has.
const PAYLOAD_BYTES: usize = 65_536;

fn large() -> Saga {
    Saga::new().step(Step::new("127.0.0.1:1/a.B/C").payload(vec![0; PAYLOAD_BYTES]))
}

async fn add(database: &MemoryDatabase, relay: &SagaRelay, sagas: &[Saga]) -> Result<(), Error> {
    let add = async |tx: &mut Tx| {
        for saga in sagas {
            relay.add(tx, saga).await?;
        }
        Ok(())
    };
    database.transactions().run(add).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_over_a_limit_of_dtm_is_refused_before_its_commit() {
    // Nothing is sent: it may be anywhere.
    let dtm = DtmClient::new(DtmConfig::from_url("dtm://127.0.0.1:1").unwrap()).unwrap();
    let database = MemoryDatabase::new();
    let relay = SagaRelay::builder(database.saga_log(), Arc::new(dtm.coordinator())).build();
    let mut options = impatient();
    options.headers.insert("x".to_owned(), "v".repeat(1024));
    let long_url = Step::new(format!("127.0.0.1:1/a.B/{}", "C".repeat(1024)));
    for (saga, told) in [
        (large(), "what=payload, length=65536, length_max=65535, step=0"),
        (Saga::new().options(options), "what=options, of which headers are the most"),
        (Saga::new().step(long_url), "what=url, length=1040, length_max=1024"),
        (Saga::with_gid("a;b"), "semicolons"),
        (Saga::with_gid("g".repeat(129)), "gid_bytes_max=128"),
    ] {
        let error = add(&database, &relay, &[saga]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(told), "{error}");
    }
    assert_eq!(relay.counts().await.unwrap(), SagaCounts::default());
}

/// Limits that are set wrong: DTM's database says no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dtm_refuses_for_its_size_is_parked_and_the_others_are_handed_over() {
    let Some(stage) = Stage::on(Kind::DtmMysql, Wire::Grpc).await else { return };
    let mut config = patient(DtmConfig::from_url(&dev_servers::shared(Kind::DtmMysql).unwrap()).unwrap());
    config.store_limits = StoreLimits::None;
    let dtm = DtmClient::connect(config).await.unwrap();
    let database = MemoryDatabase::new();
    let relay = SagaRelay::builder(database.saga_log(), Arc::new(dtm.coordinator())).build();
    relay.start(&Health::new()).await.unwrap();
    let (large, good) = (large(), stage.saga(impatient()));
    add(&database, &relay, &[large.clone(), good.clone()]).await.unwrap();
    eventually(PATIENCE, "the large one is parked", || async {
        relay.counts().await.unwrap() == SagaCounts { unfinished: 1, parked: 1, due: 0 }
    })
    .await;
    stage.until(&good.gid, Succeeded).await;
    let parked = database.saga_log().parked();
    assert_eq!(parked[0].0, large.gid);
    assert!(parked[0].1.contains("too long for a column of DTM's store"), "{parked:?}");
    assert!(stage.dtm.query(&large.gid).await.unwrap().is_none(), "nothing of it is there");
    relay.stop(Duration::from_secs(5)).await.unwrap();
}
