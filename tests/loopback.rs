//! A server, a host and clients in one process on loopback, through the public API.

use std::{future::Future, time::Duration};

use punchtunnel::{
    endpoint,
    forward::Service,
    net::{Client, ClientBuilder, Event, Host, HostBuilder, LocalPort, Server, Stream, generate_key},
    secure::{PublicKey, StaticKey},
    wire::stream::ResetReason,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// Nothing here waits for real time; a test that takes this long hangs.
const HANG: Duration = Duration::from_secs(60);

/// A server with its address, for as long as it is held.
struct Running {
    address: String,
    probe_port: u16,
    key: PublicKey,
    _stop: oneshot::Sender<()>,
}

async fn server() -> Running {
    server_at("127.0.0.1:0").await
}

async fn server_at(address: &str) -> Running {
    let listen = address.parse().unwrap();
    let server = Server::builder().listen(listen).probe_ports([0]).bind().await.unwrap();
    let address = server.addresses()[0].to_string();
    let probe_port = server.probe_addresses()[1].port();
    let key = server.public_key();
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(server.run(async { drop(stopped.await) }));
    Running { address, probe_port, key, _stop: stop }
}

impl Running {
    fn host(&self, name: &str) -> HostBuilder {
        Host::builder(name).rendezvous(&self.address).server_key(self.key).probe_port(self.probe_port)
    }

    fn client(&self, name: &str) -> ClientBuilder {
        Client::builder(name).rendezvous(&self.address).server_key(self.key).probe_port(self.probe_port)
    }
}

/// A server, a host called `h`, and a client that it lets in.
async fn trio(services: &[&str]) -> (Running, Host, Client) {
    let server = server().await;
    let (host, key) = host(&server, services).await;
    let client = server.client("h").key(key).host_key(host.public_key()).connect().await.unwrap();
    (server, host, client)
}

/// A host called `h`, and the key that it lets in.
async fn host(server: &Running, services: &[&str]) -> (Host, StaticKey) {
    let key = generate_key();
    let mut builder = server.host("h").admission(vec![key.public()]);
    for service in services {
        builder = builder.service(service.parse::<Service>().unwrap());
    }
    if services.is_empty() {
        builder = builder.accept("echo");
    }
    (builder.start().await.unwrap(), key)
}

fn run<F: Future<Output = ()>>(test: F) {
    let log = tracing_subscriber::fmt().with_test_writer();
    log.with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(HANG, test).await.expect("the test hangs") });
    runtime.shutdown_background();
}

/// A listener on loopback, its port, and what it does with each connection.
async fn service<F, Fut>(serve: F) -> u16
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

async fn echo(mut stream: TcpStream) {
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await.ok();
    writer.shutdown().await.ok();
}

fn reason(error: std::io::Error) -> ResetReason {
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    *error.get_ref().unwrap().downcast_ref().unwrap()
}

async fn ask(stream: &mut Stream, question: &[u8]) -> Vec<u8> {
    stream.write_all(question).await.unwrap();
    let mut answer = vec![0; question.len()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

/// Bytes that no shift, loss or repetition leaves as they are.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn a_stream_echoes_and_half_closes() {
    run(async {
        let port = service(echo).await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let mut stream = client.open(None).await.unwrap();
        assert_eq!(ask(&mut stream, b"hello").await, b"hello");
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    });
}

#[test]
fn a_service_that_reads_to_the_end_can_still_answer() {
    run(async {
        let port = service(|mut stream: TcpStream| async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
        })
        .await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let mut stream = client.open(None).await.unwrap();
        stream.write_all(&pattern(1_000_000)).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "1000000 bytes");
    });
}

#[test]
fn a_service_that_resets_resets_the_stream() {
    run(async {
        let port = service(|mut stream: TcpStream| async move {
            stream.read_exact(&mut [0; 5]).await.unwrap();
            stream.set_zero_linger().unwrap();
        })
        .await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let mut stream = client.open(None).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(reason(error), ResetReason::Reset);
    });
}

#[test]
fn a_dropped_stream_resets_the_service() {
    run(async {
        let (told, heard) = oneshot::channel();
        let told = std::sync::Mutex::new(Some(told));
        let port = service(move |mut stream: TcpStream| {
            let told = told.lock().unwrap().take();
            async move {
                stream.write_all(b"x").await.unwrap();
                let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
                told.unwrap().send(error.kind()).unwrap();
            }
        })
        .await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let mut stream = client.open(None).await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        drop(stream);
        assert_eq!(heard.await.unwrap(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_service_that_refuses_resets_the_clients_local_connection() {
    run(async {
        // A port that is taken and not listened on: it refuses, and nobody else can get it meanwhile.
        let holder = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        holder.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let closed = holder.local_addr().unwrap().as_socket().unwrap().port();
        let (_server, _host, client) = trio(&[&closed.to_string()]).await;
        let mut stream = client.open(None).await.unwrap();
        let error = stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(reason(error), ResetReason::Refused);

        let port = LocalPort::bind(&"0".parse().unwrap()).await.unwrap();
        let address = port.address();
        client.forward(port);
        // The reset may be there before the runtime has looked whether the connection is.
        let result = match TcpStream::connect(address).await {
            Ok(mut local) => local.read(&mut [0]).await,
            Err(error) => Err(error),
        };
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn what_is_not_exposed_cannot_be_reached() {
    run(async {
        let port = service(echo).await;
        let other = service(echo).await;
        let (_server, _host, client) = trio(&[&format!("web={port}")]).await;
        let mut web = client.open(Some("web")).await.unwrap();
        assert_eq!(ask(&mut web, b"yes").await, b"yes");
        let mut hidden = client.open(Some(&other.to_string())).await.unwrap();
        assert_eq!(reason(hidden.read(&mut [0]).await.unwrap_err()), ResetReason::NoSuchService);
    });
}

#[test]
fn a_local_port_leads_to_the_service_with_fin_and_reset() {
    run(async {
        let port = service(echo).await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let local = LocalPort::bind(&format!("0:{port}").parse().unwrap()).await.unwrap();
        let address = local.address();
        client.forward(local);
        let mut connection = TcpStream::connect(address).await.unwrap();
        let sent = pattern(300_000);
        let (mut reader, mut writer) = connection.split();
        let writing = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, length) = tokio::join!(writing, reader.read_to_end(&mut received));
        assert_eq!(length.unwrap(), sent.len());
        assert!(received == sent);
    });
}

#[test]
fn a_program_can_serve_streams_itself() {
    run(async {
        let (_server, host, client) = trio(&[]).await;
        let serving = tokio::spawn(async move {
            let mut incoming = host.accept().await.unwrap();
            assert_eq!(incoming.service, "echo");
            let chunk = incoming.stream.read_chunk().await.unwrap().unwrap();
            incoming.stream.write_chunk(chunk).await.unwrap();
            incoming.stream.shutdown().await.unwrap();
            host
        });
        let mut stream = client.open(Some("echo")).await.unwrap();
        assert_eq!(ask(&mut stream, b"hello").await, b"hello");
        stream.shutdown().await.unwrap();
        serving.await.unwrap();
    });
}

#[test]
fn many_streams_do_not_disturb_each_other() {
    run(async {
        let port = service(echo).await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100usize {
            let mut stream = client.open(None).await.unwrap();
            tasks.spawn(async move {
                let sent = pattern(1000 * n + n);
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                let writing = async {
                    writer.write_all(&sent).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                let mut received = Vec::new();
                let (_, result) = tokio::join!(writing, reader.read_to_end(&mut received));
                result.unwrap();
                assert!(received == sent, "stream {n}");
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    });
}

#[test]
fn far_more_than_a_thousand_connections_are_open_at_once() {
    run(async {
        let port = service(echo).await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let mut open = Vec::new();
        for n in 0..1500u32 {
            let mut stream = client.open(None).await.unwrap();
            stream.write_all(&n.to_be_bytes()).await.unwrap();
            open.push(stream);
        }
        for (n, stream) in open.iter_mut().enumerate() {
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(u32::from_be_bytes(answer) as usize, n);
        }
        // The last one begins narrow, and carries more than that.
        let question = pattern(200_000);
        let last = open.last_mut().unwrap();
        assert!(ask(last, &question).await == question);
    });
}

#[test]
fn a_transfer_survives_the_death_of_its_links_without_a_lost_byte() {
    run(async {
        const KILLS: usize = 3;
        let port = service(echo).await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let mut events = client.events();
        let mut stream = client.open(None).await.unwrap();
        let sent = pattern(24 << 20);
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let writing = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let reading = async {
            let mut received = Vec::new();
            let mut kills = 0;
            while reader.read_buf(&mut received).await.unwrap() > 0 {
                if kills < KILLS && received.len() > (kills + 1) * sent.len() / (KILLS + 1) {
                    // Once each quarter, as soon as there is a link to kill.
                    kills += usize::from(client.kill_link());
                }
            }
            assert!(received == sent);
            kills
        };
        let (_, kills) = tokio::join!(writing, reading);
        assert_eq!(kills, KILLS);
        let mut links = 0;
        while links < KILLS {
            if let Some(Event::Endpoint(endpoint::Event::Connected { .. })) = events.next().await {
                links += 1;
            }
        }
    });
}

#[test]
fn no_task_is_left_of_links_that_died() {
    run(async {
        const KILLS: u8 = 120;
        // Either side keeps a set of ports for eight links, each of which leaves two listeners and at most
        // as many refused openings to it.
        const KEPT: usize = 2 * 8 * (2 + 2);
        let port = service(echo).await;
        let (_server, _host, client) = trio(&[&port.to_string()]).await;
        let mut stream = client.open(None).await.unwrap();
        let mut echoed = [0];
        stream.write_all(&[0]).await.unwrap();
        stream.read_exact(&mut echoed).await.unwrap();
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        for kill in 1..=KILLS {
            while !client.kill_link() {
                tokio::task::yield_now().await;
            }
            stream.write_all(&[kill]).await.unwrap();
            stream.read_exact(&mut echoed).await.unwrap();
            assert_eq!(echoed, [kill]);
        }
        // The ports of the last rounds are held for some seconds. Forgotten ones would never go.
        while tasks() > before + KEPT {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

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
fn the_streams_of_a_client_that_closes_have_arrived_and_the_host_knows() {
    run(async {
        let (got, all) = oneshot::channel();
        let got = std::sync::Mutex::new(Some(got));
        let port = service(move |mut stream: TcpStream| {
            let got = got.lock().unwrap().take();
            async move {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                got.unwrap().send(bytes).unwrap();
            }
        })
        .await;
        let (_server, host, client) = trio(&[&port.to_string()]).await;
        let mut events = host.events();
        let mut stream = client.open(None).await.unwrap();
        let sent = pattern(2_000_000);
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        // The service closes, so the stream ends in both directions.
        assert!(all.await.unwrap() == sent);
        client.close().await;
        while !matches!(events.next().await.unwrap(), Event::SessionEnded { .. }) {}
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

#[test]
fn the_status_counts_links_that_were_lost_and_says_for_how_long() {
    run(async {
        let port = service(echo).await;
        let (_server, host, client) = trio(&[&port.to_string()]).await;
        let mut events = client.events();
        let _stream = client.open(None).await.unwrap();
        let status = client.status();
        let session = &status.sessions[0];
        assert!(status.server.reached && session.link.up && session.link.why.is_none(), "{status:?}");
        assert_eq!((session.repunches, session.last_outage, session.key), (0, None, host.public_key()));
        assert!(client.kill_link());
        // What is told of is counted already.
        while !matches!(events.next().await, Some(Event::LinkLost { .. })) {}
        assert_eq!(client.status().sessions[0].repunches, 1);
        while !matches!(events.next().await, Some(Event::Endpoint(endpoint::Event::Connected { .. }))) {}
        let status = client.status();
        let session = &status.sessions[0];
        assert!(session.link.up && session.last_outage == Some(session.longest_outage), "{session:?}");
        assert_eq!((session.stats.links, session.stats.epoch.is_some(), session.stats.streams), (2, true, 1));
        let monitor = client.monitor();
        client.stop().await;
        assert_eq!(monitor.status().sessions.len(), 0, "what is over is not kept");
    });
}
