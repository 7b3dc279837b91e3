//! A cluster of one server, which refuses a script whose keys are in different slots as larger ones do.

use std::time::Duration;

use micro_core::{
    ErrorKind,
    barrier::{Barrier, Prepared},
    branch::{Branch, BranchError, Mode, Op},
};
use micro_testkit::eventually;
use redis::AsyncCommands as _;

use crate::server::{connected, outsider, own};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_the_integer_and_the_transaction_need_one_hash_tag() {
    let Some(server) = own(&[("cluster-enabled", "yes")]).await else { return };
    let mut connection = outsider(server.url()).await;
    let slots = (0..16_384).map(|slot| slot.to_string()).collect::<Vec<_>>();
    let _: () = redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slots).query_async(&mut connection).await.unwrap();
    for key in ["stock:{A-17}", "stock:B-2"] {
        eventually(Duration::from_secs(30), "the cluster is one", || {
            let mut connection = connection.clone();
            async move { connection.set::<_, _, ()>(key, 100).await.map_err(|error| error.to_string()) }
        })
        .await;
    }
    let barrier = connected(server.url()).await;
    let call = async |gid: &str, key: &str, op: Op| {
        let mut call = Barrier::new(Branch::new(Mode::Saga, gid, "01", op).unwrap());
        let amount = if call.branch().unwrap().op == Op::Action { -30 } else { 30 };
        barrier.adjust(&mut call, key, amount).await
    };
    assert_eq!(call("{A-17}-order-1", "stock:{A-17}", Op::Action).await.unwrap(), Some(70));
    assert_eq!(call("{A-17}-order-1", "stock:{A-17}", Op::Compensate).await.unwrap(), Some(100));
    assert_eq!(barrier.prepared("order-1").await.unwrap(), Prepared::RolledBack, "one key needs no tag");
    let refused = call("order-1", "stock:B-2", Op::Action).await;
    let Err(BranchError::Other(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.report());
    assert!(error.to_string().contains("hash tag"), "{error}");
}
