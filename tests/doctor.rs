//! The examination of a NAT, with a server on the loopback interface, where there is none.

use std::{collections::BTreeSet, net::SocketAddr};

use punchtunnel::{
    Doctor, Server,
    endpoint::Answers,
    nat::{Filtering, Mapping, Model},
    wire::examine::Knocked,
};
use tokio::net::{TcpListener, UdpSocket};

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
