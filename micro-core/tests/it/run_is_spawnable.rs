//! `run` on `dyn TransactionManager` gives a future that can be spawned and whose body may borrow.

use std::sync::Arc;

use micro_core::{
    Error, Result, TransactionManager, TransactionManagerExt, Tx,
    transaction::{RetryPolicy, retrying},
};

trait Orders: Send + Sync + 'static {
    fn save(&self, tx: &mut Tx, id: i64) -> impl Future<Output = Result<()>> + Send;
}

struct PayNotify<O> {
    transactions: Arc<dyn TransactionManager>,
    orders: O,
}

impl<O: Orders> PayNotify<O> {
    async fn once(&self, command: &str) -> Result<usize> {
        self.transactions
            .run(async |tx| {
                self.orders.save(tx, 1).await?;
                Ok::<_, Error>(command.len())
            })
            .await
    }
}

fn assert_send<T: Send>(_: T) {}

#[allow(dead_code, reason = "compiling is the test")]
fn spawnable<O: Orders>(pay: Arc<PayNotify<O>>) {
    assert_send(async move { pay.once("a").await });
}
#[allow(dead_code, reason = "compiling is the test")]
fn retried<O: Orders>(pay: Arc<PayNotify<O>>) {
    assert_send(async move {
        let command = String::from("a");
        retrying(RetryPolicy::default(), || pay.once(&command)).await
    });
}

#[test]
fn compiles() {}
