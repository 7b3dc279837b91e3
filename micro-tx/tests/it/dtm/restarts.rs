//! DTM, with its data in MariaDB, killed and restarted in the middle of a transaction.

use bytes::Bytes;
use dev_servers::Server as OwnServer;
use micro_core::{
    Error, ErrorKind,
    saga::{Outcome, SagaCoordinator as _},
};
use micro_tx::{
    SqlTxExt as _,
    dtm::{
        Tcc, TransactionOptions,
        TransactionStatus::{Aborting, Failed, Submitted, Succeeded},
        WorkflowOutcome, Xa,
    },
};

use super::{
    branches::{Say, gate},
    stage::{HELD_TIMEOUT, SECOND, Stage, Wire, blocking, impatient, options, own},
    tellers::Counter,
    workflow::{Site, Store, execution, transfers},
    xa::banks,
};
use crate::{barrier, on_servers::INSERT, server::Server};

async fn killed(mut server: OwnServer) -> OwnServer {
    blocking(move || {
        server.kill();
        server
    })
    .await
}

async fn restarted(mut server: OwnServer) -> OwnServer {
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
    options.request_timeout = Some(HELD_TIMEOUT);
    let gate = gate();
    let held = || vec![Say::Held(gate.clone()); 100];
    let saga = stage.saga(options.clone());
    stage.branches.script(&saga.gid, "02/action", held());
    let undone = stage.saga(options);
    stage.branches.script(&undone.gid, "02/action", [Say::Failure("no".to_owned())]);
    stage.branches.script(&undone.gid, "02/compensate", held());

    // Each caller waits while its saga is in the middle.
    let submitted = [saga.clone(), undone.clone()].map(|saga| {
        let coordinator = stage.dtm.coordinator();
        tokio::spawn(async move { coordinator.submit(saga).await })
    });
    stage.until_called(&saga.gid, 2).await;
    stage.until_called(&undone.gid, 3).await;
    let server = killed(server).await;
    gate.close();
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
    let mut options = options();
    options.retry_interval = Some(2 * SECOND);
    options.timeout_to_fail = Some(SECOND);

    // In the middle of its calls.
    let calling = stage.message().options(options.clone());
    stage.branches.script(&calling.gid, "02/action", [Say::Late(2 * SECOND)]);
    stage.dtm.submit_message(&calling).await.unwrap();
    stage.until_called(&calling.gid, 2).await;

    // Between its phases: the local part takes place while DTM is down, and nobody can submit.
    options.retry_interval = Some(5 * SECOND);
    let begun = stage.message().options(options);
    let mut server = Some(server);
    let done = stage.dtm.do_and_submit(&begun, async |_| {
        server = Some(killed(server.take().unwrap()).await);
        Ok::<_, Error>(Some("done"))
    });
    assert_eq!(done.await.unwrap(), Some("done"), "what took place took place");
    let _server = restarted(server.unwrap()).await;
    stage.until(&calling.gid, Succeeded).await;
    stage.until(&begun.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&begun.gid), ["00/msg", "01/action", "02/action"], "DTM asked");
    let calls = stage.branches.calls(&calling.gid);
    assert_eq!((calls[0].as_str(), calls.last().unwrap().as_str()), ("01/action", "02/action"), "{calls:?}");
}

fn patient() -> TransactionOptions {
    let mut options = options();
    options.retry_interval = Some(2 * SECOND);
    options.timeout_to_fail = Some(5 * SECOND);
    options
}

/// One is being confirmed, one cancelled, and of one nobody could say what becomes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtm_killed_in_the_middle_of_a_tcc_confirms_or_cancels_all_of_it() {
    let Some(server) = own().await else { return };
    let Some(bank) = barrier::Bank::on(Server::Mariadb).await else { return };
    let counter = Counter::at(Stage::at(server.url(), Wire::Grpc).await, bank);
    let [confirming, cancelling, begun] = [(); 3].map(|()| Tcc::new().options(patient()));
    let transfer = [counter.reservation("TransOut"), counter.reservation("TransIn")]
        .map(|branch| branch.payload(counter.payload("30")));

    counter.branches.script(&confirming.gid, "01/confirm", vec![Say::Oops; 100]);
    let done = counter.dtm.tcc(&confirming, async |branches| {
        for branch in &transfer {
            branches.call(branch).await?;
        }
        Ok::<_, Error>(())
    });
    done.await.unwrap();
    counter.branches.script(&cancelling.gid, "01/cancel", vec![Say::Oops; 100]);
    let done = counter.dtm.tcc(&cancelling, async |branches| {
        for branch in &transfer {
            branches.call(branch).await?;
        }
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "transfer", "not today"))
    });
    done.await.unwrap_err();
    counter.until_called(&confirming.gid, 4).await;
    counter.until_called(&cancelling.gid, 4).await;

    let mut server = Some(server);
    let done = counter.dtm.tcc(&begun, async |branches| {
        branches.call(&transfer[0]).await?;
        server = Some(killed(server.take().unwrap()).await);
        branches.call(&transfer[1]).await
    });
    let error = done.await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(counter.teller.accounts().await, ["100-90", "130+0"], "of each one half is done");
    let _server = restarted(server.unwrap()).await;
    assert_eq!(counter.status(&confirming.gid).await, Submitted);
    assert_eq!(counter.status(&cancelling.gid).await, Aborting);
    counter.branches.script(&confirming.gid, "01/confirm", []);
    counter.branches.script(&cancelling.gid, "01/cancel", []);
    counter.until(&confirming.gid, Succeeded).await;
    counter.until(&cancelling.gid, Failed).await;
    counter.until(&begun.gid, Failed).await;
    assert_eq!(counter.teller.accounts().await, ["70+0", "130+0"], "nothing is left reserved");
    assert_eq!(counter.branches.calls(&begun.gid), ["01/try", "01/cancel"]);
    assert!(counter.reason(&begun.gid).await.contains("Timeout"), "{}", counter.reason(&begun.gid).await);
}

/// As of TCC; with a branch in MariaDB and one in PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtm_killed_in_the_middle_of_an_xa_leaves_nothing_prepared() {
    let Some(server) = own().await else { return };
    let stage = Stage::at(server.url(), Wire::Grpc).await;
    let Some(banks) = banks(&stage).await else { return };
    let urls = banks.each_ref().map(|bank| stage.url(&bank.method));
    let [committing, undoing, begun] = [(); 3].map(|()| Xa::new().options(patient()));

    stage.branches.script(&committing.gid, "02/commit", vec![Say::Oops; 100]);
    let done = stage.dtm.xa(&committing, async |branches| {
        branches.call(&urls[0], stage.payload("30")).await?;
        branches.call(&urls[1], stage.payload("30")).await
    });
    done.await.unwrap();
    for call in ["01/rollback", "02/rollback"] {
        stage.branches.script(&undoing.gid, call, vec![Say::Oops; 100]);
    }
    let done = stage.dtm.xa(&undoing, async |branches| {
        branches.call(&urls[0], stage.payload("30")).await?;
        branches.call(&urls[1], stage.payload("30")).await?;
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "transfer", "not today"))
    });
    done.await.unwrap_err();
    stage.until_called(&committing.gid, 4).await;
    stage.until_called(&undoing.gid, 3).await;

    let mut server = Some(server);
    let done = stage.dtm.xa(&begun, async |branches| {
        branches.call(&urls[1], stage.payload("30")).await?;
        server = Some(killed(server.take().unwrap()).await);
        // DTM cannot be told of it: it is not prepared.
        branches.call(&urls[0], stage.payload("30")).await
    });
    let error = done.await.unwrap_err();
    assert!(error.is_retryable() || error.kind() == ErrorKind::Unknown, "{error}");
    // Half of it, in either direction: DTM was killed in the middle.
    let prepared = async |gid: &str| [banks[0].prepared_count(gid).await, banks[1].prepared_count(gid).await];
    assert_eq!(prepared(&committing.gid).await, [0, 1]);
    assert_eq!(prepared(&undoing.gid).await, [1, 1]);
    assert_eq!(prepared(&begun.gid).await, [0, 1]);
    let _server = restarted(server.unwrap()).await;
    assert_eq!(stage.status(&committing.gid).await, Submitted);
    assert_eq!(stage.status(&undoing.gid).await, Aborting);
    stage.branches.script(&committing.gid, "02/commit", []);
    for call in ["01/rollback", "02/rollback"] {
        stage.branches.script(&undoing.gid, call, []);
    }
    for (xa, end, row_count) in [(&committing, Succeeded, 1), (&undoing, Failed, 0), (&begun, Failed, 0)] {
        stage.until(&xa.gid, end).await;
        assert_eq!(prepared(&xa.gid).await, [0, 0]);
        for bank in &banks {
            assert_eq!(bank.row_count(&xa.gid).await, row_count, "{}", bank.method);
        }
    }
    for bank in &banks {
        bank.site.until_quiet("nothing is open").await;
    }
}

/// A local branch, branches of XA in both databases, and calls behind barriers, the first of which took
/// effect while DTM could not be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtm_killed_in_the_middle_of_a_workflow_has_it_go_on() {
    let Some(server) = own().await else { return };
    let Some(bank) = barrier::Bank::on(Server::Mariadb).await else { return };
    let counter = Counter::at(Stage::at(server.url(), Wire::Grpc).await, bank);
    let Some(banks) = banks(&counter).await else { return };
    let (site, store) = (Site::serve(counter.wire).await, Store::open().await);
    let (local, barriers) = (store.clone(), banks.each_ref().map(|bank| bank.barrier.clone()));
    let (urls, payload) = (["TransOut", "TransIn"].map(|name| counter.url(name)), counter.payload("30"));
    let register = transfers(&counter);
    let workflows = site.workflows(&counter.dtm, move |builder| {
        register(builder).register("pay", move |mut workflow, _data| {
            let (local, barriers, urls, payload) = (local.clone(), barriers.clone(), urls.clone(), payload.clone());
            async move {
                local.add(&mut workflow).await?;
                let code = workflow.gid().to_owned();
                for barrier in &barriers {
                    let work = workflow.branch()?.run_in_xa(barrier, async |tx| {
                        tx.sql()?.execute(INSERT, &[code.as_str().into(), "worked".into()]).await?;
                        Ok(Bytes::new())
                    });
                    work.await?;
                }
                for url in &urls {
                    workflow.branch()?.request_timeout(HELD_TIMEOUT).call(url, payload.clone()).await?;
                }
                Ok(Bytes::from_static(b"paid"))
            }
        })
    });
    let [paid, undone] = ["pay", "transfer"].map(|name| {
        let mut options = options();
        options.retry_interval = Some(10 * SECOND);
        options.request_timeout = Some(HELD_TIMEOUT);
        execution(name).options(options)
    });
    counter.branches.script(&undone.gid, "02/action", [Say::Failure("no".to_owned())]);
    counter.branches.script(&undone.gid, "01/rollback", [Say::Oops]);
    workflows.execute(undone.clone()).await.unwrap_err();
    let gate = gate();
    counter.branches.script(&paid.gid, "04/action", [Say::Held(gate.clone())]);
    let running = {
        let (workflows, paid) = (workflows.clone(), paid.clone());
        tokio::spawn(async move { workflows.execute(paid).await })
    };
    counter.until_called(&paid.gid, 1).await;
    let server = killed(server).await;
    gate.close();
    let error = running.await.unwrap().unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    assert_eq!(counter.teller.accounts().await, ["40+0", "100+0"], "of both it was taken, of one to be given back");
    let prepared = async |gid: &str| [banks[0].prepared_count(gid).await, banks[1].prepared_count(gid).await];
    assert_eq!(prepared(&paid.gid).await, [1, 1]);

    let _server = restarted(server).await;
    counter.until(&paid.gid, Succeeded).await;
    counter.until(&undone.gid, Failed).await;
    assert_eq!(counter.branches.calls(&paid.gid), ["04/action", "04/action", "05/action"]);
    assert_eq!(counter.branches.calls(&undone.gid), ["01/action", "02/action", "01/rollback", "01/rollback"]);
    assert_eq!(counter.teller.accounts().await, ["70+0", "130+0"]);
    assert_eq!(store.row_count(&paid.gid).await, 1);
    assert_eq!(prepared(&paid.gid).await, [0, 0]);
    for bank in &banks {
        assert_eq!(bank.row_count(&paid.gid).await, 1, "{}", bank.method);
        bank.site.until_quiet("nothing is open").await;
    }
    let outcome = workflows.execute(paid).await.unwrap();
    assert_eq!(outcome, WorkflowOutcome::Succeeded(Bytes::from_static(b"paid")), "who asks again is answered");
}
