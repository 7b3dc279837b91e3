//! Cases of topics.

use futures_util::future::join_all;
use micro_core::{ErrorKind, saga::Outcome};
use micro_testkit::{eventually, unique};
use micro_tx::dtm::{TransactionStatus::Succeeded, TwoPhaseMessage};

use super::stage::{PATIENCE, Stage, on_each_wire};

on_each_wire! {
    case_09_scan_and_query_kv
    case_12_topic_normal
    case_13_concurrent_update_topic
    case_58_msg_topic_not_found_failed
    a_message_to_a_topic_calls_each_subscriber
}

async fn subscribers(stage: &Stage, topic: &str) -> Option<(Vec<String>, u64)> {
    let topics = stage.dtm.topics().await.unwrap();
    let found = topics.into_iter().find(|found| found.name == topic)?;
    Some((found.subscribers.into_iter().map(|subscriber| subscriber.url).collect(), found.version))
}

async fn case_09_scan_and_query_kv(stage: Stage) {
    let topic = unique("topic");
    assert_eq!(subscribers(&stage, &topic).await, None);
    stage.dtm.subscribe(&topic, &stage.url("Sub1"), "first").await.unwrap();
    assert_eq!(subscribers(&stage, &topic).await, Some((vec![stage.url("Sub1")], 1)));
    let topics = stage.dtm.topics().await.unwrap();
    assert_eq!(topics.iter().find(|found| found.name == topic).unwrap().subscribers[0].remark, "first");
}

async fn case_12_topic_normal(stage: Stage) {
    let (topic, dtm) = (unique("topic"), &stage.dtm);
    let kind = |outcome: micro_core::Result<()>| outcome.unwrap_err().kind();
    dtm.subscribe(&topic, "http://h/1", "").await.unwrap();
    assert_eq!(kind(dtm.subscribe(&topic, "http://h/1", "").await), ErrorKind::AlreadyExists);
    dtm.subscribe(&topic, "http://h/2", "").await.unwrap();
    assert_eq!(kind(dtm.subscribe("", "http://h/1", "").await), ErrorKind::InvalidArgument);
    assert_eq!(kind(dtm.subscribe(&topic, "", "").await), ErrorKind::InvalidArgument);
    dtm.unsubscribe(&topic, "http://h/1").await.unwrap();
    assert_eq!(kind(dtm.unsubscribe(&topic, "http://h/1").await), ErrorKind::NotFound);
    assert_eq!(kind(dtm.unsubscribe(&unique("topic"), "http://h/1").await), ErrorKind::NotFound);
    dtm.delete_topic(&topic).await.unwrap();
    assert_eq!(kind(dtm.delete_topic(&topic).await), ErrorKind::NotFound);
    assert_eq!(subscribers(&stage, &topic).await, None);
}

async fn case_13_concurrent_update_topic(stage: Stage) {
    let topic = unique("topic");
    let subscribed = join_all((0..20).map(|number| {
        let (dtm, topic) = (stage.dtm.clone(), topic.clone());
        async move { dtm.subscribe(&topic, &format!("http://h/{number}"), "").await }
    }));
    let done_count = subscribed.await.into_iter().filter(Result::is_ok).count();
    let (urls, version) = subscribers(&stage, &topic).await.unwrap();
    assert!(done_count > 0);
    assert_eq!((urls.len(), version), (done_count, done_count as u64), "each that was told so is there");
}

async fn case_58_msg_topic_not_found_failed(stage: Stage) {
    let message = TwoPhaseMessage::new().topic(&unique("nobody"), stage.payload("x"));
    let error = stage.dtm.submit_message(&message).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("topic not found"), "{error}");
    assert_eq!(stage.dtm.query(&message.gid).await.unwrap(), None);
}

async fn a_message_to_a_topic_calls_each_subscriber(stage: Stage) {
    let topic = unique("topic");
    for name in ["Sub1", "Sub2"] {
        stage.dtm.subscribe(&topic, &stage.url(name), "").await.unwrap();
    }
    // DTM looks at the topics every 3 s.
    let message = eventually(PATIENCE, "the topic", async || {
        let message = TwoPhaseMessage::new().topic(&topic, stage.payload("x"));
        let outcome = stage.dtm.submit_message(&message).await.map_err(|error| error.to_string())?;
        assert_eq!(outcome, Outcome::StillRunning);
        // It may have looked between the two subscriptions.
        let details = stage.dtm.query(&message.gid).await.unwrap().expect("DTM knows it");
        if details.branches.len() == 2 { Ok(message) } else { Err(format!("{:?}", details.branches)) }
    })
    .await;
    stage.until(&message.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&message.gid), ["01-01/action", "01-02/action"]);
}
