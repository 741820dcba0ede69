//! The examination of a NAT, with a server on the loopback interface, where there is none.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use punchtunnel::{
    Doctor, Server,
    endpoint::Answers,
    nat::{Filtering, Mapping, Model},
    wire::{
        examine::{Knocked, Origin},
        probe::{Purpose, preamble},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
};

/// A server that runs until the test ends: its main addresses, and all that are probed.
async fn server(listen: &[&str]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let mut builder = Server::builder().probe_ports([0]);
    for address in listen {
        builder = builder.listen(address.parse().unwrap());
    }
    let server = builder.bind().await.unwrap();
    let found = (server.addresses().to_vec(), server.probe_addresses().to_vec());
    tokio::spawn(server.run(std::future::pending()));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_nat_everything_gets_in() {
    let (addresses, probes) = server(&["127.0.0.1:0"]).await;
    let mut doctor = Doctor::builder().rendezvous(addresses[0].to_string());
    for probe in &probes {
        doctor = doctor.probe_server(probe.to_string());
    }
    let [found] = &doctor.examine().await.unwrap()[..] else { panic!("one family") };
    assert!(found.is_public());
    let prediction = found.prediction.as_ref().expect("probed");
    assert_eq!(prediction.mapping, Mapping::EndpointIndependent);
    assert!(matches!(prediction.model, Model::Fixed { .. }));
    assert_eq!(found.probes, (8, 8));
    assert_eq!(found.answers.from_port, Some(Knocked::Reached));
    assert_eq!(found.answers.from_address, Some(Knocked::Unable), "the server has one address");
    assert_eq!(prediction.filtering, Filtering::AddressDependent);
    assert_eq!(found.answers.crossing, Some(Knocked::Reached));
    assert_eq!(found.hairpin, None, "there is nothing to go round");
    assert_eq!(found.udp.mapping(), Some(Mapping::EndpointIndependent));
    let seen: BTreeSet<_> = found.udp.observed.values().collect();
    assert_eq!(seen.len(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_two_addresses_knocks_from_the_other_one() {
    let (addresses, probes) = server(&["127.0.0.1:0", "127.0.0.2:0"]).await;
    let first = addresses[0];
    let mut doctor = Doctor::builder().rendezvous(first.to_string());
    for probe in probes.iter().filter(|probe| probe.ip() == first.ip()) {
        doctor = doctor.probe_server(probe.to_string());
    }
    let [found] = &doctor.examine().await.unwrap()[..] else { panic!("one family") };
    assert_eq!(found.answers.from_address, Some(Knocked::Reached));
    assert_eq!(found.prediction.as_ref().unwrap().filtering, Filtering::EndpointIndependent);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn further_servers_are_probed_as_well_and_one_that_is_dead_is_done_without() {
    let (first, probes) = server(&["127.0.0.1:0"]).await;
    let probe_port = probes.iter().find(|probe| !first.contains(probe)).expect("a probe port").port();
    let builder = Server::builder().probe_ports([probe_port]).listen("127.0.0.2:0".parse().unwrap());
    let other = builder.bind().await.unwrap();
    let second = other.addresses()[0];
    tokio::spawn(other.run(std::future::pending()));
    // It takes connections and says nothing.
    let dead = TcpListener::bind("127.0.0.3:0").await.unwrap();
    let doctor = Doctor::builder()
        .rendezvous(first[0].to_string())
        .further_server(second.to_string())
        .further_server(dead.local_addr().unwrap().to_string())
        .further_server("nowhere.invalid")
        .probe_port(probe_port);
    let [found] = &doctor.examine().await.unwrap()[..] else { panic!("one family") };
    let seen: BTreeSet<_> = found.udp.observed.keys().map(SocketAddr::ip).collect();
    assert_eq!(seen, BTreeSet::from([first[0].ip(), second.ip()]));
    let (asked, answered) = found.probes;
    assert!(answered < asked && answered >= 8, "{answered} of {asked}");
    let prediction = found.prediction.as_ref().expect("probed");
    assert_eq!((prediction.mapping, prediction.fresh), (Mapping::EndpointIndependent, None));
    assert!(Doctor::builder().rendezvous("vps").further_server("a b").examine().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_nothing_is_a_result() {
    // It takes connections and datagrams, and keeps silent.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _udp = UdpSocket::bind(address).await.unwrap();
    let doctor = Doctor::builder().rendezvous(address.to_string()).probe_server(address.to_string());
    let [found] = &doctor.examine().await.unwrap()[..] else { panic!("one family") };
    assert_eq!(found.probes, (4, 0));
    assert_eq!(found.prediction, None);
    assert_eq!((found.answers, found.hairpin), (Answers::default(), None));
    assert!(found.udp.observed.is_empty());
}

/// Asks for a knock, or crossing, as a stranger may: the answer, or the number of the door.
async fn ask(server: SocketAddr, purpose: Purpose, question: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let from = stream.local_addr().unwrap();
    stream.write_all(&preamble(purpose)).await.unwrap();
    stream.write_all(question).await.unwrap();
    let mut answer = vec![0; 2];
    let length = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await.ok()?.ok()?;
    answer.truncate(length);
    Some((from, answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_gets_a_few_favours_and_then_waits() {
    let (addresses, _) = server(&["127.0.0.1:0"]).await;
    let mut answers = Vec::new();
    for _ in 0..18 {
        answers.push(ask(addresses[0], Purpose::Knock, &Origin::Port.question()).await.unwrap().1);
    }
    let busy = vec![Knocked::Busy as u8];
    // The client's port has no listener: the kernel answers with a reset.
    assert_eq!(answers[0], [Knocked::Reset as u8]);
    assert!(answers[17] == busy, "{answers:?}");
    // No door is opened either.
    assert_eq!(ask(addresses[0], Purpose::Cross, &[]).await.unwrap().1, [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knock_goes_to_the_port_that_asked_and_only_for_a_whole_question() {
    let (addresses, _) = server(&["127.0.0.1:0"]).await;
    let bound = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        #[cfg(unix)]
        socket.set_reuseport(true).unwrap();
        socket
    };
    let listening = bound();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let own = listening.local_addr().unwrap();
    let listener = listening.listen(8).unwrap();
    let asking = bound();
    asking.bind(own).unwrap();
    let mut stream = asking.connect(addresses[0]).await.unwrap();
    let question = Origin::Port.question();
    stream.write_all(&preamble(Purpose::Knock)).await.unwrap();
    stream.write_all(&question[..question.len() - 1]).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(early.is_err(), "a knock for less than a question");
    stream.write_all(&question[question.len() - 1..]).await.unwrap();
    let (_, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip(), addresses[0].ip());
    assert!(addresses.iter().all(|address| address.port() != from.port()), "a port that was contacted");
    assert_eq!(stream.read_u8().await.unwrap(), Knocked::Reached as u8);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "one answer");
}
