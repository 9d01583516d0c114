//! Accept queues that nobody empties.

use std::net::{Ipv6Addr, SocketAddr};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{
    namespace::{VM6, agent, connect, report},
    support::eventually,
};

/// Connections that the kernel of this namespace has dropped because an accept queue was full.
fn overflows() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(|line| line.split(' '));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.zip(values);
    both.find(|(name, _)| *name == "ListenOverflows").expect("the kernel counts overflows").1.parse().unwrap()
}

#[test]
fn service_that_does_not_accept_is_said_to_drop_connections_until_it_accepts() {
    let agent = agent();
    let service = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    service.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 3000)).into()).unwrap();
    service.listen(1).unwrap();
    let waiting = |number: u64| report(&agent, &service, |entry| entry["accept_queue"] == number);

    let empty = waiting(0);
    assert_eq!((&empty["backlog"], &empty["hint"], &empty["exposure"]), (&1.into(), &Value::Null, &"direct".into()));
    let _first = connect(3000);
    assert_eq!(waiting(1)["hint"], Value::Null);
    // The kernel takes one more than the backlog.
    let _second = connect(3000);
    let full = waiting(2);
    assert!(full["hint"].as_str().unwrap().contains("its accept queue is full (2 of 2)"), "{full}");
    assert_eq!((&full["exposure"], &full["cause"]), (&"direct".into(), &Value::Null));

    // The hint is true: the third one's SYN is dropped.
    assert_eq!(overflows(), 0);
    let third = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    third.set_nonblocking(true).unwrap();
    third.connect(&SocketAddr::from((VM6, 3000)).into()).expect_err("a connection is not made at once");
    eventually("the kernel has dropped a connection", || (overflows() > 0).then_some(()));
    drop(third);

    let _served: (Socket, _) = service.accept().unwrap();
    let accepting = waiting(1);
    assert_eq!(accepting["hint"], Value::Null);
}
