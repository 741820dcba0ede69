//! The library inside a program: a rendezvous server, a host that serves streams itself, and a client,
//! as three parties with their own keys on loopback.
//!
//! ```sh
//! cargo run --example embedded
//! ```

use punchtunnel::{Client, Event, Host, Server, endpoint, generate_key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A server on any port. A real one runs elsewhere, with `data` for what it is to remember.
    let server = Server::builder().listen("127.0.0.1:0".parse()?).probe_ports([0]).bind().await?;
    let rendezvous = format!("{}#{}", server.addresses()[0], server.public_key());
    let probe_port = server.probe_addresses()[1].port();
    tokio::spawn(server.run(std::future::pending()));

    // A host that lets one client in, and echoes what it says.
    let client_key = generate_key();
    let host = Host::builder("myhost")
        .rendezvous(&rendezvous)
        .probe_port(probe_port)
        .admission(vec![client_key.public()])
        .accept("echo")
        .start()
        .await?;
    let host_key = host.public_key();
    tokio::spawn(async move {
        while let Some(mut incoming) = host.accept().await {
            tokio::spawn(async move {
                while let Ok(Some(chunk)) = incoming.stream.read_chunk().await {
                    if incoming.stream.write_chunk(chunk).await.is_err() {
                        return;
                    }
                }
                incoming.stream.shutdown().await.ok();
            });
        }
    });

    // The client. Whatever a person may want to see comes as events.
    let client = Client::builder("myhost")
        .rendezvous(&rendezvous)
        .probe_port(probe_port)
        .key(client_key)
        .host_key(host_key);
    let mut events = client.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Event::Endpoint(endpoint::Event::Connected { remote, took, .. }) = event {
                println!("connected to {remote}, {took:?} after the agreed instant");
            }
        }
    });
    let client = client.connect().await?;
    let mut stream = client.open(Some("echo")).await?;
    stream.write_all(b"hello through the tunnel").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("the host echoes: {answer}");

    client.close().await;
    Ok(())
}
