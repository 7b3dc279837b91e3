//! Clusters: of one server, which refuses a script whose keys are in different slots as larger ones do, and
//! of two.

use std::time::Duration;

use dev_servers::Server;
use micro_core::{
    ErrorKind,
    barrier::{Barrier, Prepared},
    branch::{Branch, BranchError, Mode, Op},
};
use micro_testkit::eventually;
use redis::AsyncCommands as _;

use crate::server::{connected, outsider, own_with};

/// A server, and the port at which others of its cluster find it.
async fn clustered() -> Option<(Server, u16)> {
    let bus_port = dev_servers::free_port();
    let settings = vec![("cluster-enabled", "yes".to_owned()), ("cluster-port", bus_port.to_string())];
    Some((own_with(settings).await?, bus_port))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_the_integer_and_the_transaction_need_one_hash_tag() {
    let Some((server, _)) = clustered().await else { return };
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

/// Two servers with half of the slots each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_server_of_the_cluster_is_told_with_what_to_do() {
    let (Some((here, _)), Some((there, bus_port))) = (clustered().await, clustered().await) else { return };
    for (server, slots) in [(&here, 0..8_192), (&there, 8_192..16_384)] {
        let slots = slots.map(|slot: u32| slot.to_string()).collect::<Vec<_>>();
        let mut connection = outsider(server.url()).await;
        let _: () = redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slots).query_async(&mut connection).await.unwrap();
    }
    let mut connection = outsider(here.url()).await;
    let meet = redis::cmd("CLUSTER").arg("MEET").arg("127.0.0.1").arg(there.port()).arg(bus_port).to_owned();
    let _: () = meet.query_async(&mut connection).await.unwrap();
    let mut keys = (None, None);
    for number in 0.. {
        let key = format!("stock:{{{number}}}");
        let slot: u32 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(&key).query_async(&mut connection).await.unwrap();
        if slot < 8_192 {
            keys.0.get_or_insert((number, key))
        } else {
            keys.1.get_or_insert((number, key))
        };
        if keys.0.is_some() && keys.1.is_some() {
            break;
        }
    }
    let (own_key, other_key) = (keys.0.unwrap(), keys.1.unwrap());
    eventually(Duration::from_secs(60), "the servers are one cluster", || {
        let (mut connection, key) = (connection.clone(), own_key.1.clone());
        async move { connection.set::<_, _, ()>(key, 100).await.map_err(|error| error.to_string()) }
    })
    .await;
    let barrier = connected(here.url()).await;
    let call = async |(number, key): &(u32, String)| {
        let gid = format!("{{{number}}}-order");
        let mut call = Barrier::new(Branch::new(Mode::Saga, gid, "01", Op::Action).unwrap());
        barrier.adjust(&mut call, key, -30).await
    };
    assert_eq!(call(&own_key).await.unwrap(), Some(70));
    let told = call(&other_key).await;
    let Err(BranchError::Other(error)) = told else { panic!("{told:?}") };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert!(error.to_string().contains("another server of the cluster has this key"), "{error}");
    assert!(error.report().contains("name that one or a proxy"), "{}", error.report());
}
