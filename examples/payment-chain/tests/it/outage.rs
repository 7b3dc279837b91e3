//! Servers that are away: what can go on goes on, health says what cannot, nothing is flooded, and
//! all is well again by itself.

use std::time::{Duration, Instant};

use dev_servers::Kind;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::stage::{PATIENCE, Stage, await_true};

/// How long everything is away while log and processor are watched.
const OUTAGE: Duration = Duration::from_secs(10);
/// Of each service. A report a second of each of its components would be too much.
const LOG_LINES_PER_SECOND_MAX: f64 = 6.0;
/// Of each service, of the time that passed. On a machine that nobody else uses it is a fiftieth.
const PROCESSOR_SHARE_MAX: f64 = 0.2;

#[test]
fn an_outage_of_every_server_is_survived_and_told() {
    let Some(mut stage) = Stage::start(Kind::Mariadb) else { return };
    stage.await_acknowledged(40, "at first");
    await_health(&stage, ServingStatus::Serving);

    // Without the registry, callers go on with the instances they know.
    stage.consul.kill();
    stage.await_acknowledged(40, "without Consul");
    // Without the broker, events wait in the outbox.
    stage.kafka.kill();
    stage.await_acknowledged(40, "without Kafka");
    // Without the database nothing goes on, and health says so.
    stage.database.kill();
    await_health(&stage, ServingStatus::NotServing);

    stage.rest(true);
    let before = usage(&stage);
    let began = Instant::now();
    await_true(PATIENCE, || if began.elapsed() < OUTAGE { Err("waiting".to_owned()) } else { Ok(()) });
    let after = usage(&stage);
    // The machine may have stood still meanwhile.
    let elapsed = began.elapsed();
    for ((name, lines, time), (_, lines_before, time_before)) in after.into_iter().zip(before) {
        let (lines, time) = (lines - lines_before, time - time_before);
        println!("{name} logged {lines} lines and was busy for {time:?} of {elapsed:?}");
        let lines_max = LOG_LINES_PER_SECOND_MAX * elapsed.as_secs_f64();
        assert!(lines as f64 <= lines_max, "{name} logged {lines} lines in {elapsed:?}");
        assert!(time <= elapsed.mul_f64(PROCESSOR_SHARE_MAX), "{name} was busy for {time:?} of {elapsed:?}");
    }

    stage.database.restart().unwrap();
    stage.kafka.restart().unwrap();
    stage.consul.restart().unwrap();
    stage.rest(false);
    await_health(&stage, ServingStatus::Serving);
    stage.await_acknowledged(40, "afterwards");
    stage.judge();
}

fn usage(stage: &Stage) -> [(&'static str, usize, Duration); 2] {
    [("order", &stage.order), ("product", &stage.product)]
        .map(|(name, service)| (name, service.log_line_count(), service.processor_time()))
}

/// Waits until the order service's health is `wanted`.
fn await_health(stage: &Stage, wanted: ServingStatus) {
    let address = format!("http://127.0.0.1:{}", stage.order.port);
    await_true(PATIENCE, || {
        let status = stage.runtime.block_on(async {
            let channel = tonic::transport::Endpoint::from_shared(address.clone()).unwrap().connect().await;
            let mut client = HealthClient::new(channel.map_err(|error| error.to_string())?);
            let reply = client.check(HealthCheckRequest::default()).await.map_err(|status| status.to_string())?;
            Ok::<_, String>(reply.get_ref().status())
        })?;
        if status == wanted { Ok(()) } else { Err(format!("health is {status:?}, not {wanted:?}")) }
    });
}
