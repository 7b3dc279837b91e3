//! The one table of ports, and free ones.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use crate::kind::Kind;

/// Where a shared server listens unless something else does: the usual port and 10,000, so that a
/// database of the user's own is neither in the way nor taken for ours. DTM's usual one is moved down,
/// for 46,790 is one that the system gives to outgoing connections.
pub(crate) fn usual(kind: Kind) -> u16 {
    match kind {
        Kind::Kafka => 19_092,
        Kind::Consul => 18_500,
        Kind::Etcd => 12_379,
        Kind::Mariadb => 13_306,
        Kind::Postgres => 15_432,
        Kind::Dtm => 16_790,
        Kind::DtmMysql => 17_790,
        Kind::Redis => 16_379,
    }
}

/// A port of this machine on which nothing listens, and that this process was not given before: a
/// server that is being started does not listen yet.
///
/// It lies below the range from which the system takes the ports of outgoing connections, so that a
/// server that was killed finds it free when it comes back.
///
/// # Panics
///
/// When in a thousand tries none is free.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let is_new = |port: u16| GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
    (0..1000)
        .map(|_| fastrand::u16(20_000..32_000))
        .find(|port| is_free(*port) && is_new(*port))
        .expect("some of twelve thousand ports are free")
}

/// As [`free_port`], of which the further ports that the kind takes beside it are free too.
pub(crate) fn free_port_for(kind: Kind) -> u16 {
    (0..100).map(|_| free_port()).find(|port| kind.finds_free(*port)).expect("most ports are free")
}

pub(crate) fn is_free(port: u16) -> bool {
    // Asked again: a program that another thread starts at this moment has copies of this process's
    // sockets until it is loaded, so that a port looks taken that was given back.
    (0..5).any(|attempt| {
        if attempt > 0 {
            thread::park_timeout(Duration::from_millis(20));
        }
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Of 300 out of 12,000 three or four would be the same by chance.
    #[test]
    fn a_port_is_given_once() {
        let ports: BTreeSet<u16> = (0..300).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 300);
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_not_free() {
        let port = free_port();
        assert!(is_free(port));
        // A program that another test starts at this moment has copies of the socket that was just closed.
        let end = Instant::now() + Duration::from_secs(10);
        let _listener = loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Err(_) if Instant::now() < end => thread::park_timeout(Duration::from_millis(20)),
                bound => break bound.unwrap(),
            }
        };
        assert!(!is_free(port));
    }
}
