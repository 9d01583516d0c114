//! A bridged connection carries every byte and every kind of end.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use socket2::SockRef;

use crate::{
    namespace::{Tier, agent_in, connect, listen, until_bridged},
    support::{DEADLINE, TestAgent},
};

in_both_tiers! {
    bytes_arrive_whole_in_both_directions_at_once
    clients_end_of_input_reaches_the_service_which_can_still_answer
    services_end_of_output_reaches_the_client_which_can_still_send
    services_reset_is_a_reset_at_the_client
    clients_reset_is_a_reset_at_the_service
    services_reset_is_no_clean_end_while_the_client_is_sending
    clients_reset_is_no_clean_end_while_the_service_is_sending
    connection_to_a_service_that_refuses_is_reset
    reader_that_stops_holds_up_nobody_else
}

/// A bridged service, and one connection to it from both ends.
fn bridged(tier: Tier) -> (TestAgent, TcpListener, TcpStream, TcpStream) {
    let agent = agent_in(tier);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let client = connect(3000);
    let (served, _) = service.accept().unwrap();
    served.set_read_timeout(Some(DEADLINE)).unwrap();
    served.set_write_timeout(Some(DEADLINE)).unwrap();
    (agent, service, client, served)
}

/// Bytes in which a missing, doubled or swapped piece shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn bytes_arrive_whole_in_both_directions_at_once(tier: Tier) {
    let (_agent, _service, client, served) = bridged(tier);
    let bytes = pattern(8 * 1024 * 1024);
    let ends = [client, served].map(|stream| {
        let (mut writer, bytes) = (stream.try_clone().unwrap(), bytes.clone());
        let writing = thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        (stream, writing)
    });
    for (mut stream, writing) in ends {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
    }
}

fn clients_end_of_input_reaches_the_service_which_can_still_answer(tier: Tier) {
    let (_agent, _service, mut client, mut served) = bridged(tier);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = Vec::new();
    served.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    let answer = pattern(1024 * 1024);
    served.write_all(&answer).unwrap();
    drop(served);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got == answer);
}

fn services_end_of_output_reaches_the_client_which_can_still_send(tier: Tier) {
    let (_agent, _service, mut client, mut served) = bridged(tier);
    served.write_all(b"greeting").unwrap();
    served.shutdown(Shutdown::Write).unwrap();
    let mut greeting = Vec::new();
    client.read_to_end(&mut greeting).unwrap();
    assert_eq!(greeting, b"greeting");
    client.write_all(b"still here").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    served.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"still here");
}

fn services_reset_is_a_reset_at_the_client(tier: Tier) {
    let (_agent, _service, mut client, served) = bridged(tier);
    reset(served);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn clients_reset_is_a_reset_at_the_service(tier: Tier) {
    let (_agent, _service, client, mut served) = bridged(tier);
    reset(client);
    assert_eq!(served.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Writes until nothing more fits between this end and the other.
fn fill(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let block = vec![1; 64 * 1024];
    // The relay takes some more after the buffers are full, so one refusal is not the end.
    let mut refused = 0;
    while refused < 5 {
        match (&*stream).write(&block) {
            Ok(written) => refused = usize::from(written == 0),
            Err(_) => {
                refused += 1;
                thread::park_timeout(Duration::from_millis(5));
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
}

fn services_reset_is_no_clean_end_while_the_client_is_sending(tier: Tier) {
    let (_agent, service, client, served) = bridged(tier);
    let mut pairs = vec![(client, served)];
    pairs.extend((0..20).map(|_| (connect(3000), service.accept().unwrap().0)));
    for (mut client, mut served) in pairs {
        fill(&client);
        served.write_all(b"part of the answer").unwrap();
        reset(served);
        let end = client.read_to_end(&mut Vec::new());
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

fn clients_reset_is_no_clean_end_while_the_service_is_sending(tier: Tier) {
    let (_agent, service, client, served) = bridged(tier);
    let mut pairs = vec![(client, served)];
    pairs.extend((0..20).map(|_| (connect(3000), service.accept().unwrap().0)));
    for (mut client, mut served) in pairs {
        fill(&served);
        client.write_all(b"part of the upload").unwrap();
        reset(client);
        let end = served.read_to_end(&mut Vec::new());
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

fn connection_to_a_service_that_refuses_is_reset(tier: Tier) {
    let agent = agent_in(tier);
    agent.call("PUT", "/v1/bridge", r#"{"rules": [{"listen": 8080, "to": "127.0.0.1:9"}]}"#);
    let mut client = connect(8080);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(agent.get("/v1/bridge")["ports"][0]["errors_total"], 1);
}

fn reader_that_stops_holds_up_nobody_else(tier: Tier) {
    let (_agent, service, slow, mut served) = bridged(tier);
    let bytes = pattern(32 * 1024 * 1024);
    let writing = {
        let bytes = bytes.clone();
        thread::spawn(move || served.write_all(&bytes).map(|()| drop(served)))
    };
    let mut other = connect(3000);
    let (mut other_served, _) = service.accept().unwrap();
    for _ in 0..100 {
        other.write_all(b"x").unwrap();
        other_served.read_exact(&mut [0]).unwrap();
    }
    let mut slow = slow;
    let mut got = Vec::new();
    slow.read_to_end(&mut got).unwrap();
    writing.join().unwrap().unwrap();
    assert!(got == bytes);
}
