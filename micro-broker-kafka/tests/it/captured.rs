//! What go-micro's Kafka plugin was seen to do with records, and what is done with them here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use micro_core::{
    Error, ErrorKind, Health,
    app::Component,
    broker::{Broker, Message},
    consume::{Consumer, DeliveryBatch},
};
use micro_testkit::{eventually, unique};
use tower::service_fn;

use crate::world::{KafkaFixture, PATIENCE, Reader, new_topic, publish, ready};

/// A message as a Go subscriber was handed it.
struct Handed {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Lines of `topic=… header={…}`, each with a dump of bytes in hex behind it.
fn handed(capture: &str) -> Vec<Handed> {
    let mut messages: Vec<Handed> = Vec::new();
    for line in capture.lines() {
        if let Some((_, headers)) = line.split_once(" header=") {
            messages.push(Handed { headers: serde_json::from_str(headers).unwrap(), body: Vec::new() });
        } else if let Some((dump, _)) = line.split_once("  |") {
            // `body=` stands before the first, then the place of the line's first byte.
            let words = dump.split_whitespace().skip(1);
            messages.last_mut().unwrap().body.extend(words.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
        }
    }
    messages
}

#[tokio::test]
async fn what_foreign_producers_write_is_read_as_go_read_it_and_what_go_refused_is_handed_on() {
    let kafka = ready!(KafkaFixture);
    let capture = include_str!("../vectors/kafka-foreign.txt");
    let [plain, envelope] = &handed(capture)[..] else { panic!("{capture}") };
    let refused: Vec<_> = capture.lines().filter(|line| line.contains("failed to unmarshal")).collect();
    // A bare protobuf message, and JSON that is no object.
    assert!(refused.len() == 2 && refused[0].contains(r"'\b'") && refused[1].contains("array"), "{refused:?}");

    let topic = new_topic(&kafka.broker, 1).await;
    let records = [
        Message::keyed(&*topic, "k", plain.body.clone()).with_header("Event-Type", plain.headers["Event-Type"].clone()),
        Message::keyed(&*topic, "k", &b"\x08\x07"[..]),
        Message::keyed(&*topic, "k", "[1,2]"),
        // The record's own header counts for more.
        Message::keyed(&*topic, "k", r#"{"Header":{"X":"1"},"Body":"aGk="}"#).with_header("X", "2"),
    ];
    for record in records {
        kafka.broker.publish(vec![record]).await.remove(0).unwrap();
    }
    let reader = Reader::join(&kafka.broker, &unique("group"), &topic).await;
    let deliveries = reader.take(4).await;
    for (delivery, expected) in [(&deliveries[0], plain), (&deliveries[3], envelope)] {
        assert_eq!(delivery.message.body, expected.body);
        // What go-micro makes up where it is missing.
        let said = expected.headers.iter().filter(|(name, _)| !["Content-Type", "Micro-Topic"].contains(&&***name));
        for (name, value) in said {
            assert_eq!(delivery.message.headers.get_str(name), Some(&**value), "{name}");
        }
    }
    assert_eq!((&deliveries[1].message.body[..], &deliveries[2].message.body[..]), (&b"\x08\x07"[..], &b"[1,2]"[..]));
    reader.close().await;
}

#[tokio::test]
async fn a_message_whose_handler_failed_is_handled_again_which_go_never_did() {
    let kafka = ready!(KafkaFixture);
    let capture = include_str!("../vectors/kafka-failed-handler.txt");
    let got: Vec<_> = capture.lines().filter_map(|line| line.strip_prefix("got ")).collect();
    let (before, _) = capture.split_once("handler failed").expect("one failed");
    let failed = before.lines().filter_map(|line| line.strip_prefix("got ")).next_back().expect("it was had");
    assert_eq!(got.iter().filter(|body| **body == failed).count(), 1, "Go had it once");
    assert!(capture.trim_end().ends_with("run 2, same group"), "and nothing of it when the group came again");

    let (topic, group) = (new_topic(&kafka.broker, 1).await, unique("group"));
    let bodies: Vec<String> = got.iter().map(|body| (*body).to_owned()).collect();
    publish(&kafka.broker, &topic, "a", &bodies).await;
    let handled = Arc::new(Mutex::new(Vec::new()));
    let consumer = |fails_once: Option<&'static str>| {
        let handled = handled.clone();
        let fails = Arc::new(Mutex::new(fails_once));
        let service = service_fn(move |batch: DeliveryBatch| {
            let (handled, fails) = (handled.clone(), fails.clone());
            async move {
                for delivery in &*batch.deliveries {
                    let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
                    if fails.lock().unwrap().take_if(|failing| *failing == body).is_some() {
                        return Err(Error::new(ErrorKind::Unavailable, "test.handle", "handler failed"));
                    }
                    handled.lock().unwrap().push(body);
                }
                Ok(())
            }
        });
        Consumer::with_service(Arc::new(kafka.broker.clone()), &*group, [&*topic], service)
            // One after the other, as in Go.
            .batch_count_max(1)
            .build()
    };
    let first = consumer(Some(failed));
    first.start(&Health::new()).await.unwrap();
    eventually(PATIENCE, "all are handled", || async { *handled.lock().unwrap() == bodies }).await;
    // Before it is closed: what was handled a moment ago may not be acknowledged yet.
    let committed = async || kafka.broker.lag(&*group, [&*topic]).await.unwrap()[0].committed;
    eventually(PATIENCE, "all are committed", || async { committed().await == Some(bodies.len() as i64) }).await;
    first.close().await.unwrap();

    // The group comes again: each was handled once, and nothing is had twice.
    let second = consumer(None);
    second.start(&Health::new()).await.unwrap();
    publish(&kafka.broker, &topic, "a", &["last".to_owned()]).await;
    eventually(PATIENCE, "what is new", || async { handled.lock().unwrap().last().is_some_and(|body| body == "last") })
        .await;
    assert_eq!(handled.lock().unwrap().len(), bodies.len() + 1);
    second.close().await.unwrap();
}
