//! Every order of success, failure, timeout, duplicate, empty compensation and hanging of a saga of four
//! steps, on DTM: it must come to the same end as on the embedded coordinator.

use std::{sync::Arc, time::Duration};

use dev_servers::Kind;
use futures_util::{StreamExt as _, stream};
use micro_core::{
    branch::{Branch, BranchAnswer, BranchError, HttpAnswer},
    saga::SagaCoordinator as _,
    transaction::MemoryDatabase,
};
use micro_testkit::{
    saga::model::{Fate, SagaCase, SagaWorld, ends_as_the_model_says},
    unique,
};
use micro_tx::dtm::{DtmClient, DtmConfig};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// DTM calls again what failed one saga after the other.
const PATIENCE: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_ends_on_dtm_as_the_model_says() {
    let url = match dev_servers::shared(Kind::DtmMysql) {
        Ok(url) => url,
        Err(missing) => {
            let required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
            assert!(!required, "DTM is missing and required: {missing}");
            return eprintln!("skipped, DTM is missing: {missing}");
        }
    };
    let coordinator = DtmClient::connect(DtmConfig::from_url(&url).unwrap()).await.unwrap().coordinator();
    let participants = MemoryDatabase::with_acquire_timeout(PATIENCE);
    let barrier = participants.barrier();
    let world = Arc::new(SagaWorld::new(participants, barrier).sparing_undecided());
    let address = serve(world.clone()).await;

    let run = unique("model");
    // Not those of concurrent steps that are rolled back at the retry limit: now and then DTM 1.19 does not
    // come to their end, as `sparing_undecided` says of one step after the other.
    let is_undecided = |fate: &Fate| matches!(fate, Fate::NeverArrives | Fate::ArrivesLate);
    let together = SagaCase::all(true).into_iter().filter(|case| !case.fates.iter().any(is_undecided));
    let cases = SagaCase::all(false).into_iter().chain(together).enumerate();
    let cases: Vec<(String, SagaCase)> = cases.map(|(number, case)| (format!("{run}-{number:04}"), case)).collect();
    cases.iter().for_each(|(gid, case)| world.play(gid, *case));
    let submit = |(gid, case): &(String, SagaCase)| {
        let saga = case.saga(gid, |step, op| format!("http://{address}/{step}/{op}"));
        let coordinator = coordinator.clone();
        async move { coordinator.submit(saga).await.map(drop) }
    };
    let submitted: Vec<_> = stream::iter(&cases).map(submit).buffer_unordered(16).collect().await;
    submitted.into_iter().for_each(|submitted| submitted.unwrap());
    for (gid, case) in &cases {
        ends_as_the_model_says(&coordinator, &world, (gid, *case), PATIENCE).await;
        if !case.is_concurrent {
            assert_eq!(world.called(gid), case.end().called, "{case:?} calls these actions");
        }
    }
}

/// Serves the branches of a world over HTTP, each request on a connection of its own; answers where.
async fn serve(world: Arc<SagaWorld>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let world = world.clone();
            tokio::spawn(async move { answer(stream, &world).await.expect("DTM reads its answer") });
        }
    });
    address
}

async fn answer(stream: TcpStream, world: &SagaWorld) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        match header.trim().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap()
            }
            Some(_) => {}
        }
    }
    stream.read_exact(&mut vec![0; length]).await?;
    let target = request.split(' ').nth(1).unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let part = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.to_owned())
    };
    let branch = Branch::read(part).unwrap().expect("DTM says which branch it calls");
    let outcome = match world.handle(&branch).await {
        Ok(BranchAnswer::Failed(reason)) => Err(BranchError::failed(reason)),
        Ok(BranchAnswer::Ongoing) => Err(BranchError::Ongoing),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    };
    let HttpAnswer { status, body, .. } = HttpAnswer::of("world", Some(&branch), outcome);
    let head =
        format!("HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
    stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await?;
    stream.flush().await
}
