//! Links that die under a session, and what is told of them.

use crate::*;

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
