//! Streams: what programs at both ends see of each other.

use crate::*;

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
