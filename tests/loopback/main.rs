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

mod links;
mod meetings;
mod streams;

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
