//! The NAT model, axis by axis.

use std::time::{Duration, Instant};

use super::*;

/// A NAT with one public address, and a clock.
struct Bench {
    nat: Nat,
    now: Instant,
}

const PUBLIC: &str = "198.51.100.1";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn bench(behaviour: Behaviour) -> Bench {
    seeded(behaviour, 7)
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
fn seeded(behaviour: Behaviour, seed: u64) -> Bench {
    let now = Instant::now();
    Bench { nat: Nat::new(&behaviour, vec![at(&format!("{PUBLIC}:0")).ip()], seed, now), now }
}

impl Bench {
    fn out(&mut self, mut packet: Packet) -> (Verdict, Packet) {
        let verdict = self.nat.outbound(self.now, &mut packet);
        (verdict, packet)
    }

    fn inn(&mut self, mut packet: Packet) -> (Verdict, Packet) {
        let verdict = self.nat.inbound(self.now, &mut packet);
        (verdict, packet)
    }

    /// A SYN goes out: the external endpoint that it got.
    fn syn(&mut self, src: &str, dst: &str) -> SocketAddr {
        let (verdict, packet) = self.out(Packet::tcp(at(src), at(dst), Flags::SYN));
        assert_eq!(verdict, Verdict::Forward);
        packet.src
    }

    /// Does a segment from `src` to an external endpoint come in?
    fn passes(&mut self, src: &str, external: SocketAddr, flags: Flags) -> bool {
        self.inn(Packet::tcp(at(src), external, flags)).0 == Verdict::Forward
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

const A: &str = "10.0.0.2:5000";
const S1: &str = "203.0.113.1:80";
const S2: &str = "203.0.113.1:81";
const T1: &str = "203.0.113.9:80";

fn steps(behaviour: Behaviour, seed: u64) -> Vec<i32> {
    let mut bench = seeded(behaviour, seed);
    let ports: Vec<i32> =
        (0..40).map(|i| i32::from(bench.syn(&format!("10.0.0.2:{}", 5000 + i), S1).port())).collect();
    ports.windows(2).map(|pair| (pair[1] - pair[0] + 32768).rem_euclid(64512) - 32768).collect()
}

#[test]
fn an_endpoint_independent_mapping_has_one_port_for_every_destination() {
    for seed in 0..20 {
        let mut bench = seeded(Behaviour::endpoint_independent(Filtering::AddressDependent), seed);
        let external = bench.syn(A, S1);
        assert_eq!(external, bench.syn(A, S2));
        assert_eq!(external, bench.syn(A, T1));
    }
}

#[test]
fn an_address_dependent_mapping_has_another_port_for_another_address_only() {
    let mut bench = bench(Behaviour::address_dependent_sequential());
    let external = bench.syn(A, S1);
    assert_eq!(external, bench.syn(A, S2));
    assert_ne!(external, bench.syn(A, T1));
}

#[test]
fn an_address_and_port_dependent_mapping_has_another_port_for_another_port() {
    let mut bench = bench(Behaviour::sequential(1));
    let external = bench.syn(A, S1);
    assert_eq!(external, bench.syn(A, S1), "a repeated SYN keeps its mapping");
    assert_eq!(external.port() + 1, bench.syn(A, S2).port());
}

#[test]
fn filtering_decides_which_remotes_pass_a_mapping() {
    for (filtering, expected) in [
        (Filtering::EndpointIndependent, [true, true, true]),
        (Filtering::AddressDependent, [true, true, false]),
        (Filtering::AddressAndPortDependent, [true, false, false]),
    ] {
        let mut bench = bench(Behaviour::endpoint_independent(filtering));
        let external = bench.syn(A, S1);
        let passed = [S1, S2, T1].map(|remote| bench.passes(remote, external, Flags::SYN));
        assert_eq!(passed, expected, "{filtering:?}");
    }
}

#[test]
fn an_inbound_packet_is_rewritten_to_the_internal_endpoint() {
    let mut bench = bench(Behaviour::endpoint_independent(Filtering::EndpointIndependent));
    let external = bench.syn(A, S1);
    let (verdict, packet) = bench.inn(Packet::tcp(at(S1), external, Flags::SYN_ACK));
    assert_eq!((verdict, packet.dst), (Verdict::Forward, at(A)));
}

#[test]
fn linux_keeps_the_port_for_every_tuple_that_is_free_and_for_no_other() {
    let mut bench = bench(Behaviour::linux(Unsolicited::Drop));
    assert_eq!(bench.syn(A, S1).port(), 5000);
    assert_eq!(bench.syn(A, S2).port(), 5000);
    assert_eq!(bench.syn("10.0.0.3:5000", T1).port(), 5000, "another tuple");
    assert_ne!(bench.syn("10.0.0.3:5000", S1).port(), 5000, "the tuple is taken");
}

#[test]
fn a_shared_port_leads_each_remote_to_the_host_that_called_it() {
    let mut bench = bench(Behaviour::linux(Unsolicited::Drop));
    let external = bench.syn(A, S1);
    assert_eq!(external, bench.syn("10.0.0.3:5000", T1));
    assert_eq!(bench.inn(Packet::tcp(at(T1), external, Flags::SYN_ACK)).1.dst, at("10.0.0.3:5000"));
    assert_eq!(bench.inn(Packet::tcp(at(S1), external, Flags::SYN_ACK)).1.dst, at(A));
}

#[test]
fn a_constant_offset_is_the_same_for_all_ports() {
    for seed in 0..20 {
        let mut bench = seeded(Behaviour::constant_offset(), seed);
        let mut offset = |port: u16| {
            (i32::from(bench.syn(&format!("10.0.0.2:{port}"), S1).port()) - i32::from(port)).rem_euclid(64512)
        };
        assert_ne!(offset(5000), 0);
        assert_eq!(offset(5001), offset(60000));
    }
}

#[test]
fn sequential_steps_are_what_the_behaviour_says() {
    for step in [1, 2, -1, -3] {
        for seed in 0..20 {
            assert!(steps(Behaviour::sequential(step), seed).iter().all(|&s| s == i32::from(step)));
        }
    }
}

#[test]
fn irregular_steps_skip_up_to_two_ports() {
    let steps = steps(Behaviour::irregular(), 3);
    assert!(steps.iter().all(|step| (1..=3).contains(step)));
    assert!((1..=3).all(|step| steps.contains(&step)));
}

#[test]
fn parity_is_kept() {
    let mut bench = bench(Behaviour::sequential_parity());
    for local in [5000, 5002, 5003, 5005, 5006, 5009] {
        let external = bench.syn(&format!("10.0.0.2:{local}"), S1);
        assert_eq!(external.port() % 2, local % 2);
    }
}

#[test]
fn a_sequence_goes_on_at_the_other_end_of_the_range() {
    for (step, start, then) in [(1, 65535, 1024), (-1, 1024, 65535), (2, 65534, 1024)] {
        let assignment = Assignment::Sequential { step, jitter: 0, parity: false, start: Some(start) };
        let mut bench = bench(Behaviour { assignment, ..Behaviour::sequential(step) });
        assert_eq!(bench.syn(A, S1).port(), start);
        assert_eq!(bench.syn(A, S2).port(), then);
    }
}

#[test]
fn free_parameters_come_from_the_seed() {
    let first = |seed| seeded(Behaviour::sequential(1), seed).syn(A, S1);
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}

#[test]
fn a_block_is_the_customers_own_and_refuses_when_it_is_full() {
    let mut bench = bench(Behaviour::block(256));
    let mut ports: Vec<u16> =
        (0..256).map(|i| bench.syn(&format!("10.0.0.2:{}", 5000 + i), S1).port()).collect();
    assert!(ports.windows(2).any(|pair| pair[0] > pair[1]), "in random order");
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((ports.len(), ports[255] - ports[0]), (256, 255));
    let (verdict, _) = bench.out(Packet::tcp(at("10.0.0.2:6000"), at(S1), Flags::SYN));
    assert!(matches!(verdict, Verdict::Drop(_)));
    let other = bench.syn("10.0.0.3:6000", S1).port();
    assert!(!ports.contains(&other), "another customer has another block");
}

#[test]
fn foreign_traffic_moves_the_counter_by_its_rate() {
    let mut bench = bench(Behaviour::sequential(1).with_foreign(100.0));
    let before = i32::from(bench.syn(A, S1).port());
    bench.wait(10);
    let moved = (i32::from(bench.syn(A, S2).port()) - before).rem_euclid(64512);
    assert!((900..1100).contains(&moved), "{moved} in 10 s at 100 a second");
}

#[test]
fn foreign_traffic_uses_up_the_block_and_gives_it_back() {
    let mut bench = bench(Behaviour::block(256).with_foreign(2.0));
    bench.syn(A, S1);
    bench.wait(1000);
    let held = bench.nat.mappings(bench.now, Transport::Tcp);
    assert!((80..170).contains(&held), "{held}, where 2 a second live a minute each");
}

#[test]
fn foreign_traffic_has_been_there_before() {
    let mut block = bench(Behaviour::block(256).with_foreign(2.0));
    block.syn(A, S1);
    let held = block.nat.mappings(block.now, Transport::Tcp);
    assert!((80..170).contains(&held), "{held} of a customer who has lived there all the time");

    let mut offset = bench(Behaviour::constant_offset().with_foreign(20.0));
    let held = offset.nat.mappings(offset.now, Transport::Tcp);
    assert!((1000..1400).contains(&held), "{held}, where 20 a second live a minute each");
}

#[test]
fn an_unsolicited_syn_is_dropped_or_reset_or_refused_by_icmp() {
    let answers = [Unsolicited::Drop, Unsolicited::Reset, Unsolicited::Icmp].map(|unsolicited| {
        let mut bench = bench(Behaviour::linux(unsolicited));
        bench.inn(Packet::tcp(at(S1), at(&format!("{PUBLIC}:5000")), Flags::SYN)).0
    });
    assert!(matches!(answers[0], Verdict::Drop(_)));
    let Verdict::Answer(reset) = answers[1] else { panic!("{:?}", answers[1]) };
    assert!(reset.is_reset() && reset.dst == at(S1) && reset.src == at(&format!("{PUBLIC}:5000")));
    let Verdict::Answer(icmp) = answers[2] else { panic!("{:?}", answers[2]) };
    assert!(matches!(icmp.kind, Kind::Icmp { error: IcmpError::Prohibited, about } if about.src == at(S1)));
}

#[test]
fn a_reset_is_never_answered() {
    let mut bench = bench(Behaviour::linux(Unsolicited::Reset));
    let (verdict, _) = bench.inn(Packet::tcp(at(S1), at(&format!("{PUBLIC}:5000")), Flags::RST));
    assert!(matches!(verdict, Verdict::Drop(_)));
}

#[test]
fn a_reset_as_the_only_answer_deletes_the_mapping_where_the_behaviour_says_so() {
    for deletes in [true, false] {
        let behaviour = Behaviour { reset_deletes: deletes, ..Behaviour::sequential(1) };
        let mut bench = bench(behaviour);
        let external = bench.syn(A, S1);
        assert!(bench.passes(S1, external, Flags::RST), "the reset itself gets in");
        assert_eq!(bench.passes(S1, external, Flags::SYN), !deletes);
        assert_eq!(bench.syn(A, S1) == external, !deletes, "a redial draws another port");
    }
}

#[test]
fn a_strict_firewall_lets_the_syn_ack_in_and_the_syn_not() {
    let mut bench = bench(Behaviour::strict());
    let external = bench.syn(A, S1);
    assert!(!bench.passes(S1, external, Flags::SYN));
    assert!(bench.passes(S1, external, Flags::SYN_ACK));
}

#[test]
fn a_half_open_mapping_ends_before_an_established_one() {
    let half_open = {
        let mut bench = bench(Behaviour::linux(Unsolicited::Drop));
        let external = bench.syn(A, S1);
        bench.wait(121);
        bench.passes(S1, external, Flags::SYN_ACK)
    };
    let mut bench = bench(Behaviour::linux(Unsolicited::Drop));
    let external = bench.syn(A, S1);
    assert!(bench.passes(S1, external, Flags::SYN_ACK));
    bench.out(Packet::tcp(at(A), at(S1), Flags::ACK));
    bench.wait(3600);
    assert!(!half_open && bench.passes(S1, external, Flags::ACK));
}

#[test]
fn a_simultaneous_open_counts_as_established() {
    let mut bench = bench(Behaviour::linux(Unsolicited::Drop));
    let external = bench.syn(A, S1);
    assert!(bench.passes(S1, external, Flags::SYN));
    bench.out(Packet::tcp(at(A), at(S1), Flags::SYN_ACK));
    assert!(bench.passes(S1, external, Flags::SYN_ACK));
    bench.wait(3600);
    assert!(bench.passes(S1, external, Flags::ACK));
}

#[test]
fn a_finished_connection_ends_with_the_transitory_timeout() {
    let mut bench = bench(Behaviour::linux(Unsolicited::Drop));
    let external = bench.syn(A, S1);
    assert!(bench.passes(S1, external, Flags::SYN_ACK));
    bench.out(Packet::tcp(at(A), at(S1), Flags::FIN));
    assert!(bench.passes(S1, external, Flags::FIN));
    bench.wait(121);
    assert!(!bench.passes(S1, external, Flags::ACK));
}

#[test]
fn an_idle_udp_mapping_ends_and_a_used_one_stays() {
    let mut bench = bench(Behaviour::linux(Unsolicited::Drop));
    let (_, sent) = bench.out(Packet::udp(at(A), at(S1)));
    for _ in 0..5 {
        bench.wait(50);
        assert_eq!(bench.inn(Packet::udp(at(S1), sent.src)).0, Verdict::Forward);
    }
    bench.wait(61);
    assert_ne!(bench.inn(Packet::udp(at(S1), sent.src)).0, Verdict::Forward);
}

#[test]
fn hairpin_leads_back_inside_with_the_external_source() {
    let mut bench = bench(Behaviour::endpoint_independent(Filtering::EndpointIndependent).with_hairpin());
    let external = bench.syn(A, S1);
    let (verdict, packet) = bench.out(Packet::tcp(at("10.0.0.3:6000"), external, Flags::SYN));
    assert_eq!((verdict, packet.dst), (Verdict::Hairpin, at(A)));
    assert_eq!(packet.src.ip(), at(&format!("{PUBLIC}:0")).ip());
}

#[test]
fn without_hairpin_a_packet_to_the_own_address_is_unsolicited() {
    let mut bench = bench(Behaviour::linux(Unsolicited::Reset));
    let external = bench.syn(A, S1);
    let (verdict, _) = bench.out(Packet::tcp(at("10.0.0.3:6000"), external, Flags::SYN));
    let Verdict::Answer(reset) = verdict else { panic!("{verdict:?}") };
    assert_eq!((reset.src, reset.dst), (external, at("10.0.0.3:6000")));
}

#[test]
fn a_pool_is_paired_or_arbitrary() {
    for pooling in [Pooling::Paired, Pooling::Arbitrary] {
        let behaviour = Behaviour { pooling, ..Behaviour::sequential(1) };
        let mut bench = bench(behaviour);
        let pool = ["198.51.100.1:0", "198.51.100.2:0"].map(|a| at(a).ip()).to_vec();
        bench.nat.renumber(bench.now, pool);
        let first = bench.syn(A, S1).ip();
        let same = (1..30).all(|i| bench.syn(&format!("10.0.0.2:{}", 6000 + i), S1).ip() == first);
        assert_eq!(same, pooling == Pooling::Paired);
    }
}

#[test]
fn udp_can_behave_otherwise_or_be_blocked() {
    let separate = UdpBehaviour::Separate(Box::new(Behaviour::sequential(1)));
    let mut bench_separate = bench(Behaviour { udp: separate, ..Behaviour::linux(Unsolicited::Drop) });
    let (_, one) = bench_separate.out(Packet::udp(at(A), at(S1)));
    let (_, two) = bench_separate.out(Packet::udp(at(A), at(S2)));
    assert_eq!(one.src.port() + 1, two.src.port());
    assert_eq!(bench_separate.syn(A, S1).port(), 5000);

    let mut blocked = bench(Behaviour::linux(Unsolicited::Drop).without_udp());
    assert!(matches!(blocked.out(Packet::udp(at(A), at(S1))).0, Verdict::Drop(_)));
    assert_eq!(blocked.syn(A, S1).port(), 5000);
}

#[test]
fn a_reboot_forgets_and_a_new_address_too() {
    let mut bench = bench(Behaviour::sequential(1));
    let external = bench.syn(A, S1);
    bench.nat.reboot(bench.now);
    assert!(!bench.passes(S1, external, Flags::SYN_ACK));
    assert_ne!(bench.syn(A, S2).port(), external.port() + 1, "the counter begins anew");
    bench.nat.renumber(bench.now, vec![at("198.51.100.77:0").ip()]);
    assert_eq!(bench.syn(A, S1).ip(), at("198.51.100.77:0").ip());
    assert!(!bench.nat.owns(at(&format!("{PUBLIC}:0")).ip()));
}

#[test]
fn after_a_reboot_linux_takes_up_a_connection_in_its_middle_and_others_do_not() {
    for (behaviour, goes_on) in [(Behaviour::linux(Unsolicited::Drop), true), (Behaviour::random(), false)] {
        let mut bench = bench(behaviour);
        bench.syn(A, S1);
        bench.nat.reboot(bench.now);
        let (verdict, _) = bench.out(Packet::tcp(at(A), at(S1), Flags::ACK));
        assert_eq!(verdict == Verdict::Forward, goes_on);
    }
}

#[test]
fn an_icmp_error_about_an_own_packet_gets_in_translated() {
    let mut bench = bench(Behaviour::sequential(1));
    let external = bench.syn(A, S1);
    let syn = Packet::tcp(external, at(S1), Flags::SYN);
    let error = syn.icmp(at(T1).ip(), IcmpError::TimeExceeded).expect("TCP has a tuple");
    let (verdict, packet) = bench.inn(error);
    assert_eq!((verdict, packet.dst.ip()), (Verdict::Forward, at(A).ip()));
    assert!(matches!(packet.kind, Kind::Icmp { about, .. } if about.src == at(A) && about.dst == at(S1)));
    let about_nothing = Packet::tcp(external, at(S2), Flags::SYN);
    let error = about_nothing.icmp(at(T1).ip(), IcmpError::TimeExceeded).expect("TCP has a tuple");
    assert!(matches!(bench.inn(error).0, Verdict::Drop(_)));
}

#[test]
fn ipv6_is_filtered_and_not_translated() {
    let mut bench = bench(Behaviour::linux(Unsolicited::Drop));
    let (inside, outside) = (at("[2001:db8:1::2]:5000"), at("[2001:db8:9::1]:80"));
    let syn = Packet::tcp(outside, inside, Flags::SYN);
    assert!(matches!(bench.inn(syn).0, Verdict::Drop(_)));
    let (verdict, packet) = bench.out(Packet::tcp(inside, outside, Flags::SYN));
    assert_eq!((verdict, packet.src), (Verdict::Forward, inside));
    assert_eq!(bench.inn(syn), (Verdict::Forward, syn));
}

#[test]
fn two_in_series_show_the_outer_ones_port_and_need_both_filters() {
    let mut inner = bench(Behaviour::linux(Unsolicited::Drop));
    let mut outer = bench(Behaviour::endpoint_independent(Filtering::EndpointIndependent));
    inner.nat.renumber(inner.now, vec![at("100.64.0.2:0").ip()]);
    let (_, between) = inner.out(Packet::tcp(at(A), at(S1), Flags::SYN));
    let (_, sent) = outer.out(between);
    assert_eq!(sent.src.ip(), at(&format!("{PUBLIC}:0")).ip());
    let (verdict, stranger) = outer.inn(Packet::tcp(at(T1), sent.src, Flags::SYN));
    assert_eq!(verdict, Verdict::Forward);
    assert!(matches!(inner.inn(stranger).0, Verdict::Drop(_)));
    let (_, answer) = outer.inn(Packet::tcp(at(S1), sent.src, Flags::SYN_ACK));
    assert_eq!(inner.inn(answer).1.dst, at(A));
}
