//! DTM, with its data in MariaDB, killed and restarted in the middle of a transaction.

use micro_core::{
    Error,
    saga::{Outcome, SagaCoordinator as _},
};
use micro_tx::dtm::{
    TransactionOptions,
    TransactionStatus::{Failed, Prepared, Succeeded},
};

use super::{
    branches::Say,
    stage::{SECOND, Stage, Wire, blocking, impatient, own},
};

async fn restarted(mut server: dev_servers::Server) -> dev_servers::Server {
    blocking(move || {
        server.restart().unwrap();
        server
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtm_killed_in_the_middle_of_a_saga_goes_on_with_it() {
    let Some(server) = own().await else { return };
    let stage = Stage::at(server.url(), Wire::Grpc).await;
    let mut options = impatient();
    options.is_waited_for = true;
    let saga = stage.saga(options.clone());
    stage.branches.script(&saga.gid, "02/action", [Say::Late(2 * SECOND)]);
    let undone = stage.saga(options);
    stage.branches.script(&undone.gid, "02/action", [Say::Failure("no".to_owned())]);
    stage.branches.script(&undone.gid, "02/compensate", [Say::Late(2 * SECOND)]);

    // Each caller waits while its saga is in the middle.
    let submitted = [saga.clone(), undone.clone()].map(|saga| {
        let coordinator = stage.dtm.coordinator();
        tokio::spawn(async move { coordinator.submit(saga).await })
    });
    stage.until_called(&saga.gid, 2).await;
    stage.until_called(&undone.gid, 3).await;
    let _server = restarted(server).await;
    for submitted in submitted {
        // Sent again, or given up: it is not known which was quicker.
        if let Err(error) = submitted.await.unwrap() {
            assert!(error.is_retryable(), "{error}");
        }
    }
    stage.until(&saga.gid, Succeeded).await;
    stage.until(&undone.gid, Failed).await;
    assert!(stage.branches.calls(&saga.gid).iter().all(|call| call.ends_with("/action")));
    assert_eq!(stage.branches.calls(&undone.gid).last().unwrap(), "01/compensate");
    assert_eq!(stage.submit(&saga).await, Outcome::Succeeded, "who asks again is answered");
    let Outcome::RolledBack { reason } = stage.submit(&undone).await else { panic!("it was rolled back") };
    assert!(reason.contains("return failed: no"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtm_killed_in_the_middle_of_a_message_sends_it() {
    let Some(server) = own().await else { return };
    let stage = Stage::at(server.url(), Wire::Grpc).await;
    let mut options = TransactionOptions::default();
    options.retry_interval = Some(2 * SECOND);
    options.timeout_to_fail = Some(SECOND);

    // In the middle of its calls.
    let calling = stage.message().options(options.clone());
    stage.branches.script(&calling.gid, "02/action", [Say::Late(2 * SECOND)]);
    stage.dtm.submit_message(&calling).await.unwrap();
    stage.until_called(&calling.gid, 2).await;

    // Between its phases: the local part takes place while DTM is down, and nobody can submit.
    let begun = stage.message().options(options);
    let mut server = Some(server);
    let done = stage.dtm.do_and_submit(&begun, async |_| {
        let mut down = server.take().unwrap();
        server = Some(
            blocking(move || {
                down.kill();
                down
            })
            .await,
        );
        Ok::<_, Error>(Some("done"))
    });
    assert_eq!(done.await.unwrap(), Some("done"), "what took place took place");
    let _server = restarted(server.unwrap()).await;
    assert_eq!(stage.status(&begun.gid).await, Prepared);

    stage.until(&calling.gid, Succeeded).await;
    stage.until(&begun.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&begun.gid), ["00/msg", "01/action", "02/action"], "DTM asked");
    let calls = stage.branches.calls(&calling.gid);
    assert_eq!((calls[0].as_str(), calls.last().unwrap().as_str()), ("01/action", "02/action"), "{calls:?}");
}
