//! Who meets whom: several clients, absence, restarts, refusals, other ways to the server.

use crate::*;

#[test]
fn several_clients_use_one_host_at_once() {
    run(async {
        let port = service(echo).await;
        let server = server().await;
        let keys: Vec<StaticKey> = (0..4).map(|_| generate_key()).collect();
        let host = server
            .host("h")
            .admission(keys.iter().map(StaticKey::public).collect::<Vec<_>>())
            .service(port.to_string().parse().unwrap())
            .start()
            .await
            .unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for key in keys {
            let builder = server.client("h").key(key).host_key(host.public_key());
            tasks.spawn(async move {
                let client = builder.connect().await.unwrap();
                let mut stream = client.open(None).await.unwrap();
                let question = pattern(100_000);
                assert!(ask(&mut stream, &question).await == question);
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    });
}

#[test]
fn a_client_waits_for_a_host_that_is_not_there_yet() {
    run(async {
        let port = service(echo).await;
        let server = server().await;
        let host_key = generate_key();
        let client_key = generate_key();
        let client = server.client("h").key(client_key.clone()).host_key(host_key.public());
        let mut events = client.events();
        let client = client.start().await.unwrap();
        while !matches!(
            events.next().await.unwrap(),
            Event::Endpoint(endpoint::Event::Waiting { last_seen: None })
        ) {}
        let _host = server
            .host("h")
            .key(host_key)
            .admission(vec![client_key.public()])
            .service(port.to_string().parse().unwrap())
            .start()
            .await
            .unwrap();
        // Not connected yet: the first bytes travel with the connection.
        let mut stream = client.open(None).await.unwrap();
        assert_eq!(ask(&mut stream, b"early").await, b"early");
    });
}

#[test]
fn a_client_goes_on_with_a_host_that_crashed_and_was_started_again() {
    run(async {
        let port = service(echo).await;
        let server = server().await;
        let (host_key, client_key) = (generate_key(), generate_key());
        let start = || {
            let host = server.host("h").key(host_key.clone()).admission(vec![client_key.public()]);
            host.service(port.to_string().parse().unwrap()).start()
        };
        // In a runtime of its own, which can be taken away from under it.
        let machine = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let host = machine.spawn(start()).await.unwrap().unwrap();
        let builder = server.client("h").key(client_key.clone()).host_key(host.public_key());
        let client = builder.connect().await.unwrap();
        let mut events = client.events();
        let mut old = client.open(None).await.unwrap();
        assert_eq!(ask(&mut old, b"before").await, b"before");
        machine.shutdown_background();
        let _host = start().await.unwrap();
        // The session died with the host, and so do its streams; a new one begins.
        let why = reason(old.read(&mut [0]).await.unwrap_err());
        assert!(matches!(why, ResetReason::SessionEnded | ResetReason::Reset), "{why}");
        while !matches!(events.next().await.unwrap(), Event::SessionEnded { .. }) {}
        let mut new = client.open(None).await.unwrap();
        assert_eq!(ask(&mut new, b"after").await, b"after");
    });
}

#[test]
fn a_host_that_does_not_appear_in_time_is_given_up() {
    run(async {
        let server = server().await;
        let builder = server.client("nobody").host_key(generate_key().public());
        let error = builder.wait(Duration::from_millis(50)).connect().await.err().unwrap();
        assert!(
            matches!(
                error,
                punchtunnel::Error::Network(punchtunnel::NetworkError::NotThere { last_seen_ago: None, .. })
            ),
            "{error}"
        );
    });
}

#[test]
fn a_client_whose_udp_is_blocked_talks_to_the_server_over_tcp() {
    run(async {
        let port = service(echo).await;
        let server = server().await;
        let (host, key) = host(&server, &[&port.to_string()]).await;
        // An address at which TCP leads to the server, and UDP to nobody.
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let _silent = std::net::UdpSocket::bind(address).unwrap();
        let main = server.address.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = front.accept().await {
                let mut far = TcpStream::connect(&main).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await.ok() });
            }
        });
        let builder = Client::builder("h")
            .rendezvous(address.to_string())
            .server_key(server.key)
            .probe_server(&server.address)
            .probe_server(format!("127.0.0.1:{}", server.probe_port))
            .key(key)
            .host_key(host.public_key());
        let mut events = builder.events();
        let client = builder.connect().await.unwrap();
        let path = loop {
            if let Event::Endpoint(endpoint::Event::ServerReached { path, .. }) = events.next().await.unwrap()
            {
                break path;
            }
        };
        assert_eq!(path, endpoint::Path::Tcp(address));
        let mut stream = client.open(None).await.unwrap();
        assert_eq!(ask(&mut stream, b"hello").await, b"hello");
    });
}

#[test]
fn everything_works_over_ipv6_alone() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    run(async {
        let port = service(echo).await;
        let server = server_at("[::1]:0").await;
        let (host, key) = host(&server, &[&port.to_string()]).await;
        let client = server.client("h").key(key).host_key(host.public_key()).connect().await.unwrap();
        let mut stream = client.open(None).await.unwrap();
        assert_eq!(ask(&mut stream, b"hello").await, b"hello");
    });
}

#[test]
fn names_and_the_servers_key_survive_its_restart() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let start = || async {
            let builder = Server::builder().listen("127.0.0.1:0".parse().unwrap()).probe_ports([0]);
            let server = builder.data(directory.path()).bind().await.unwrap();
            let (address, key) = (server.addresses()[0].to_string(), server.public_key());
            let (stop, stopped) = oneshot::channel::<()>();
            let running = tokio::spawn(server.run(async { drop(stopped.await) }));
            (address, key, stop, running)
        };
        let registered = |address: String, key: StaticKey| async move {
            let builder = Host::builder("h").rendezvous(address).key(key).accept("x");
            let mut events = builder.events();
            let _host = builder.start().await.unwrap();
            loop {
                match events.next().await.unwrap() {
                    Event::Endpoint(endpoint::Event::Registered) => return true,
                    Event::Endpoint(endpoint::Event::NotRegistered(_)) => return false,
                    _ => {}
                }
            }
        };
        let owner = generate_key();
        let (address, key, stop, running) = start().await;
        assert!(registered(address, owner.clone()).await);
        stop.send(()).unwrap();
        running.await.unwrap();
        let (address, same_key, _stop, _running) = start().await;
        assert_eq!(key, same_key);
        assert!(!registered(address.clone(), generate_key()).await);
        assert!(registered(address, owner).await);
    });
}

#[test]
fn a_client_that_nobody_let_in_is_told_so() {
    run(async {
        let server = server().await;
        let (host, _) = host(&server, &["1"]).await;
        let result = server.client("h").host_key(host.public_key()).connect().await;
        let error = result.err().unwrap();
        assert!(
            matches!(error, punchtunnel::Error::Peer(punchtunnel::PeerError::Unauthorised { .. })),
            "{error}"
        );
    });
}

#[test]
fn a_server_that_is_not_there_is_given_up() {
    run(async {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let result = Client::builder("h")
            .rendezvous(silent.local_addr().unwrap().to_string())
            .host_key(generate_key().public())
            .patience(Duration::from_millis(200))
            .connect()
            .await;
        let error = result.err().unwrap();
        assert!(
            matches!(error, punchtunnel::Error::Network(punchtunnel::NetworkError::ServerSilent { .. })),
            "{error}"
        );
    });
}

#[test]
fn a_server_that_has_stopped_lets_go_of_its_connections() {
    run(async {
        let server = server().await;
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let preamble = punchtunnel::wire::probe::preamble(punchtunnel::wire::probe::Purpose::Datagrams);
        stream.write_all(&preamble).await.unwrap();
        drop(server);
        assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    });
}
