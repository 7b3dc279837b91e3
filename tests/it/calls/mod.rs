//! Services of go-micro v4 and ours find and call each other through one registry.

mod from_go;
mod from_rust;
mod greeter;

#[allow(missing_docs, unreachable_pub)]
mod proto {
    include!("../../../micro-grpc/tests/it/go_micro/generated/peer.rs");
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}
