use std::fs;

use super::*;

const NOW: u64 = 1_700_000_000;
const TTL: Duration = Duration::from_secs(600);

fn trust() -> (tempfile::TempDir, Trust) {
    let dir = tempfile::tempdir().unwrap();
    let trust = Trust::new(Home::at(dir.path().join("home")));
    (dir, trust)
}

fn key(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn name() -> Name {
    "myhost".parse().unwrap()
}

fn server() -> ServerName {
    "vps".parse().unwrap()
}

#[test]
fn nobody_is_let_in_until_somebody_says_so() {
    let (_dir, trust) = trust();
    assert!(!trust.is_authorised(&key(1)).unwrap());
    assert!(!trust.lets_anybody_in(&name(), NOW).unwrap());
    assert!(trust.authorise(&key(1), Grant::All, "laptop").unwrap());
    assert!(!trust.authorise(&key(1), Grant::All, "again").unwrap());
    assert!(trust.is_authorised(&key(1)).unwrap());
    assert!(!trust.is_authorised(&key(2)).unwrap());
    assert!(trust.revoke(&key(1)).unwrap());
    assert!(!trust.revoke(&key(1)).unwrap());
    assert!(!trust.is_authorised(&key(1)).unwrap());
}

#[test]
fn a_key_that_the_command_line_allows_is_let_in_and_not_written_down() {
    let (_dir, trust) = trust();
    let trust = trust.allowing([(key(3), Grant::All)]);
    assert!(trust.is_authorised(&key(3)).unwrap());
    assert!(trust.lets_anybody_in(&name(), NOW).unwrap());
    assert!(!trust.home().authorized_clients().exists());
}

#[test]
fn an_invite_lets_one_client_in_and_is_then_gone() {
    let (_dir, trust) = trust();
    let code = trust.open_invite(&name(), Grant::All, &[7; 24], NOW, TTL).unwrap();
    assert!(trust.lets_anybody_in(&name(), NOW).unwrap());
    let psk = trust.invite(&name(), code.id(), NOW).unwrap().expect("open");
    assert_eq!(psk.0, code.psk().0);
    assert!(trust.use_up(&name(), code.id(), &key(1), NOW).unwrap());
    assert!(!trust.use_up(&name(), code.id(), &key(2), NOW).unwrap());
    assert!(trust.invite(&name(), code.id(), NOW).unwrap().is_none());
    assert!(trust.is_authorised(&key(1)).unwrap());
    assert!(!trust.is_authorised(&key(2)).unwrap());
}

#[test]
fn two_clients_that_race_for_one_invite_are_not_both_let_in() {
    let (_dir, trust) = trust();
    let code = trust.open_invite(&name(), Grant::All, &[7; 24], NOW, TTL).unwrap();
    let won: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|i| {
                let (trust, id, i) = (trust.clone(), code.id(), i + 2);
                scope.spawn(move || usize::from(trust.use_up(&name(), id, &key(i), NOW).unwrap()))
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
    assert_eq!(trust.clients().unwrap().len(), 1);
}

#[test]
fn an_invite_is_for_one_name_and_ends_with_its_time() {
    let (_dir, trust) = trust();
    let other = "other".parse().unwrap();
    let code = trust.open_invite(&name(), Grant::All, &[7; 24], NOW, TTL).unwrap();
    assert!(trust.invite(&other, code.id(), NOW).unwrap().is_none());
    assert!(!trust.use_up(&other, code.id(), &key(1), NOW).unwrap());
    let last = NOW + TTL.as_secs() - 1;
    assert!(trust.invite(&name(), code.id(), last).unwrap().is_some());
    assert!(trust.invite(&name(), code.id(), last + 1).unwrap().is_none());
    assert!(!trust.use_up(&name(), code.id(), &key(1), last + 1).unwrap());
    // The next invite clears the old one away.
    trust.open_invite(&name(), Grant::All, &[9; 24], last + 1, TTL).unwrap();
    assert_eq!(trust.invites().unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn invites_that_others_can_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;

    let (_dir, trust) = trust();
    trust.open_invite(&name(), Grant::All, &[7; 24], NOW, TTL).unwrap();
    let path = trust.home().invites();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(trust.invites(), Err(IdentityError::Permissions { mode: 0o644, .. })));
}

#[test]
fn a_host_is_pinned_once_and_another_key_is_refused_with_the_line() {
    let (_dir, trust) = trust();
    assert_eq!(trust.host(&name(), &server()).unwrap(), None);
    assert_eq!(trust.pin_host(&name(), &server(), &key(1)).unwrap(), Pinned::New);
    assert_eq!(trust.pin_host(&name(), &server(), &key(1)).unwrap(), Pinned::Known);
    let refused = trust.pin_host(&name(), &server(), &key(2)).unwrap_err();
    assert!(matches!(refused, IdentityError::Changed { line: 2, .. }), "{refused}");
    assert_eq!(trust.host(&name(), &server()).unwrap().map(|host| host.key), Some(key(1)));
    // The same name at another server is another host.
    let elsewhere = "elsewhere".parse().unwrap();
    assert_eq!(trust.pin_host(&name(), &elsewhere, &key(2)).unwrap(), Pinned::New);
    assert_eq!(trust.forget_host("myhost@vps:7862").unwrap().len(), 1);
    assert_eq!(trust.forget_host("myhost").unwrap().len(), 1);
    assert_eq!(trust.hosts().unwrap(), []);
}

#[test]
fn what_a_person_wrote_beside_the_keys_stays() {
    let (_dir, trust) = trust();
    fs::create_dir_all(trust.home().config_dir()).unwrap();
    let path = trust.home().authorized_clients();
    fs::write(&path, format!("# family\n{} mum's laptop\n\n# work\n{}", key(1), key(2))).unwrap();
    trust.authorise(&key(3), Grant::All, "new\nline").unwrap();
    trust.revoke(&key(2)).unwrap();
    let expected = format!("# family\n{} mum's laptop\n\n# work\n{} new line\n", key(1), key(3));
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    assert_eq!(trust.clients().unwrap()[0].comment, "mum's laptop");
}

#[test]
fn a_malformed_line_is_named_and_nobody_is_let_in_by_guessing() {
    let (_dir, trust) = trust();
    fs::create_dir_all(trust.home().config_dir()).unwrap();
    fs::write(trust.home().authorized_clients(), format!("{}\nnot-a-key\n", key(1))).unwrap();
    let error = trust.is_authorised(&key(1)).unwrap_err().to_string();
    assert!(error.contains("authorized_clients:2:"), "{error}");
    fs::write(trust.home().known_servers(), "vps:7862\n").unwrap();
    let error = trust.server(&server()).unwrap_err().to_string();
    assert!(error.contains("known_servers:1: two words"), "{error}");
}

#[test]
fn a_key_that_would_make_the_file_unreadable_is_not_written() {
    let (_dir, trust) = trust();
    trust.authorise(&key(2), Grant::All, "").unwrap();
    let small_order = PublicKey([0; 32]);
    assert!(matches!(trust.authorise(&small_order, Grant::All, ""), Err(IdentityError::Unusable(_))));
    assert!(matches!(trust.pin_host(&name(), &server(), &small_order), Err(IdentityError::Unusable(_))));
    assert!(trust.is_authorised(&key(2)).unwrap());
}

fn only(words: &str) -> Grant {
    words.parse().unwrap()
}

#[test]
fn a_key_may_use_what_its_lines_say_and_everything_where_they_say_nothing() {
    let (_dir, trust) = trust();
    trust.authorise(&key(1), only("web,22"), "mum's laptop").unwrap();
    trust.authorise(&key(2), Grant::All, "").unwrap();
    let file = trust.home().authorized_clients();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(&format!("\n{} services=22,web mum's laptop\n{}\n", key(1), key(2))), "{text}");
    let grants = trust.grants().unwrap();
    assert_eq!(grants, [(key(1), only("22,web")), (key(2), Grant::All)].into());

    // Said anew it holds instead, and the comment stays; the same again changes nothing.
    assert!(trust.authorise(&key(1), only("db"), "").unwrap());
    assert!(!trust.authorise(&key(1), only("db"), "").unwrap());
    assert_eq!(trust.clients().unwrap()[1].to_string(), format!("{} services=db mum's laptop", key(1)));
    // Two lines of a key, and the command line, add up.
    fs::write(&file, format!("{k} services=a\n{k} services=b\n", k = key(1))).unwrap();
    let allowing = trust.clone().allowing([(key(1), only("c"))]);
    assert_eq!(allowing.grants().unwrap()[&key(1)], only("a,b,c"));
}

#[test]
fn a_mistyped_or_misplaced_option_lets_nobody_in_instead_of_everywhere() {
    let (_dir, trust) = trust();
    trust.authorise(&key(1), Grant::All, "").unwrap();
    for line in
        ["service=web", "Services=web", "services=", "services=a, b=c", "services=a,,b", "my pc services=web"]
    {
        fs::write(trust.home().authorized_clients(), format!("{} {line}\n", key(1))).unwrap();
        let error = trust.is_authorised(&key(1)).unwrap_err().to_string();
        assert!(error.contains("authorized_clients:1: "), "{line}: {error}");
    }
    // A comment may hold what it likes where it cannot be mistaken.
    fs::write(trust.home().authorized_clients(), format!("{} my pc (x=1)\n", key(1))).unwrap();
    assert_eq!(trust.grants().unwrap()[&key(1)], Grant::All);
    for comment in ["a=b", "my services=web"] {
        let refused = trust.authorise(&key(2), Grant::All, comment);
        assert!(matches!(refused, Err(IdentityError::Comment(_))), "{comment}");
    }
    assert!(!trust.is_authorised(&key(2)).unwrap());
}

#[test]
fn an_invite_grants_its_services_beside_those_that_were_granted_before() {
    let (_dir, trust) = trust();
    let code = trust.open_invite(&name(), only("web"), &[7; 24], NOW, TTL).unwrap();
    assert!(trust.use_up(&name(), code.id(), &key(1), NOW).unwrap());
    assert_eq!(trust.grants().unwrap()[&key(1)], only("web"));
    let code = trust.open_invite(&name(), only("ssh"), &[8; 24], NOW, TTL).unwrap();
    assert!(trust.use_up(&name(), code.id(), &key(1), NOW).unwrap());
    assert_eq!(trust.grants().unwrap()[&key(1)], only("ssh,web"));
    assert_eq!(trust.clients().unwrap().len(), 1);
    // An invite of a file with an option that is none is none.
    let invites = trust.home().invites();
    trust.open_invite(&name(), only("db"), &[9; 24], NOW, TTL).unwrap();
    let text = fs::read_to_string(&invites).unwrap();
    fs::write(&invites, text.replace("services=db", "service=db")).unwrap();
    assert!(trust.invites().unwrap_err().to_string().contains("not an invite"));
}
