//! As behind a company's proxy: names that only the proxy can reach, an authority of its own, a password for the way out,
//! certificates of ourselves.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::as_root_and_rootless;
use crate::registry::{Access, Server};
use crate::rig::{Output, Rig, Who, finish, installed, set_mode, start, succeed};
use crate::traces;

as_root_and_rootless! {
    an_authority_behind_a_proxy
    exceptions_from_the_proxy
    a_registry_that_wants_a_certificate_of_us
}

/// A proxy that leads to one server whatever the name; it ends with the test process.
struct Proxy {
    address: String,
    /// The first line of each request.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// `credential` is `user:password` in base64, if one is asked for.
    fn start(target: &str, credential: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let address = listener.local_addr().expect("address").to_string();
        let (seen, target) = (Arc::<Mutex<Vec<String>>>::default(), target.to_owned());
        let log = seen.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (log, target) = (log.clone(), target.clone());
                // A connection that breaks is the other side's affair.
                std::thread::spawn(move || drop(pass(client, &target, credential, &log)));
            }
        });
        Self { address, seen }
    }

    /// What was asked for since the last time.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().expect("no panic"))
    }
}

fn pass(client: TcpStream, target: &str, credential: Option<&str>, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut allowed) = (String::new(), credential.is_none());
    loop {
        let begin = head.len();
        if reader.read_line(&mut head)? == 0 || head[begin..].trim().is_empty() {
            break;
        }
        let line = &head[begin..];
        let value = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
        allowed |=
            value.is_some_and(|(_, value)| credential.is_some_and(|known| value.trim() == format!("Basic {known}")));
    }
    let first = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let tunnel = first.starts_with("CONNECT ");
    log.lock().expect("no panic").push(first);
    let mut client = client;
    if !allowed {
        return client.write_all(b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n");
    }
    let mut server = TcpStream::connect(target)?;
    if tunnel {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    } else {
        server.write_all(head.as_bytes())?;
    }
    let mut back = server.try_clone()?;
    let mut out = client.try_clone()?;
    let answers = std::thread::spawn(move || {
        let done = std::io::copy(&mut back, &mut out);
        let _gone = out.shutdown(std::net::Shutdown::Both);
        done
    });
    std::io::copy(&mut reader.by_ref(), &mut server)?;
    server.shutdown(std::net::Shutdown::Write)?;
    answers.join().expect("no panic")?;
    Ok(())
}

/// Runs rbuild with a home of its own and further variables; none of the machine's proxies.
fn run(rig: &Rig, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = rig.command(args);
    for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        command.env_remove(name);
    }
    command.env("HOME", rig.path("home")).envs(variables.iter().copied());
    finish(start(&mut command), args)
}

#[track_caller]
fn good(out: &Output) {
    assert!(out.status.success(), "{}{}", out.stdout, out.stderr);
}

/// Puts files of a registry's directory where a host's certificates are looked for.
fn give(rig: &Rig, server: &Server, dir: &str, files: &[(&str, &str)]) {
    std::fs::create_dir_all(rig.path(dir)).expect("mkdir");
    for (from, to) in files {
        let to = rig.path(&format!("{dir}/{to}"));
        server.file(from, &to);
        set_mode(&to, 0o644);
    }
}

fn an_authority_behind_a_proxy(who: Who) {
    if !installed("openssl") {
        return;
    }
    let Some(server) = Server::start_as(Access::Tls) else { return };
    // me:p@ss
    let proxy = Proxy::start(&server.address.replace("localhost", "127.0.0.1"), Some("bWU6cEBzcw=="));
    let rig = Rig::new(who);
    let name = "reg.test/team/app:1";
    rig.ok(&["tag", "busybox", name]);
    give(&rig, &server, "ca", &[("ca.pem", "ca.pem"), ("ca.pem", "corp.crt")]);
    let (ca, ca_dir) = (rig.arg("ca/ca.pem"), rig.arg("ca"));
    let way = format!("http://me:p%40ss@{}", proxy.address);
    let tunnel = "CONNECT reg.test:443";

    // The way out is there, but nobody knows who signs there: once is enough to find out.
    let out = run(&rig, &[("HTTPS_PROXY", &way)], &["push", name]);
    assert_eq!(out.status.code(), Some(1));
    assert!(out.stderr.contains("invalid peer certificate"), "{}", out.stderr);
    assert!(out.stderr.contains("--registry-ca reg.test=FILE"), "{}", out.stderr);
    assert!(proxy.seen().len() <= 2, "once for each of two blobs");

    // Each way to say it.
    for (variables, args) in [
        (vec![("HTTPS_PROXY", way.as_str())], vec!["push", "--registry-ca", &ca, name]),
        (vec![("https_proxy", &way)], vec!["push", "--registry-ca", &format!("reg.test={ca}"), name]),
        (vec![("HTTPS_PROXY", &way), ("SSL_CERT_FILE", &ca)], vec!["push", name]),
        (vec![("HTTPS_PROXY", &way), ("SSL_CERT_DIR", &ca_dir)], vec!["push", name]),
    ] {
        good(&run(&rig, &variables, &args));
        assert!(proxy.seen().iter().all(|line| line == tunnel), "{variables:?}");
    }
    give(&rig, &server, "home/.config/docker/certs.d/reg.test", &[("ca.pem", "ca.crt")]);
    let other = Rig::empty(who);
    give(&other, &server, "home/.config/containers/certs.d/reg.test", &[("ca.pem", "ca.crt")]);
    let context = other.dockerfile(&format!("FROM {name}\nRUN echo 1 >/x\n"));
    good(&run(&other, &[("HTTPS_PROXY", &way)], &["build", "-t", "reg.test/team/app:2", "--push", &context]));
    good(&run(&rig, &[("HTTPS_PROXY", &way)], &["pull", "reg.test/team/app:2"]));
    proxy.seen();

    // A proxy that does not know us says so at once.
    let out = run(&rig, &[("HTTPS_PROXY", &format!("http://{}", proxy.address))], &["pull", name]);
    assert_eq!(out.status.code(), Some(1));
    assert!(out.stderr.contains("proxy authorization required"), "{}", out.stderr);
    assert!(out.stderr.contains("HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"), "{}", out.stderr);
    assert_eq!(proxy.seen(), [tunnel]);
    let out = run(&rig, &[("HTTPS_PROXY", "socks5://me:secret@127.0.0.1:1")], &["pull", name]);
    assert!(out.stderr.contains("HTTPS_PROXY names a proxy of kind socks5"), "{}", out.stderr);
    assert!(!out.stderr.contains("secret"), "{}", out.stderr);
    traces::none(&rig);
}

fn exceptions_from_the_proxy(who: Who) {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::start(&server.address, None);
    let rig = Rig::new(who);
    let way = format!("http://{}", proxy.address);
    let name = "plain.test/app:1";
    rig.ok(&["tag", "busybox", name]);

    // Plain http by way of the proxy; https is tried by the same way first.
    let ways = [("HTTP_PROXY", way.as_str()), ("HTTPS_PROXY", &way)];
    good(&run(&rig, &ways, &["push", "--insecure-registry", "plain.test", name]));
    let seen = proxy.seen();
    assert_eq!(seen[0], "CONNECT plain.test:443");
    assert!(seen.len() > 1 && seen[1..].iter().all(|line| line.contains(" http://plain.test/v2/")), "{seen:?}");

    // This machine is never asked by way of it.
    rig.ok(&["tag", "busybox", &server.name("here:1")]);
    good(&run(&rig, &ways, &["push", &server.name("here:1")]));
    assert!(proxy.seen().is_empty());

    // Exceptions: nobody is there without the proxy.
    for (variable, no, direct) in [("NO_PROXY", ".corp,plain.test", true), ("no_proxy", "plain.test:5000", false)] {
        let variables = [&ways[..], &[(variable, no)]].concat();
        let out = run(&rig, &variables, &["registry", "tags", "plain.test/app"]);
        assert!(!out.status.success(), "nobody is there without the proxy, and nobody speaks TLS behind it");
        assert_eq!(proxy.seen().is_empty(), direct, "{variable}={no}: {}", out.stderr);
    }
    traces::none(&rig);
}

fn a_registry_that_wants_a_certificate_of_us(who: Who) {
    if !installed("openssl") {
        return;
    }
    let Some(server) = Server::start_as(Access::Certificate) else { return };
    let rig = Rig::new(who);
    let name = server.name("app:1");
    rig.ok(&["tag", "busybox", &name]);
    let out = run(&rig, &[], &["push", &name]);
    assert_eq!(out.status.code(), Some(1));
    assert!(out.stderr.contains("https://localhost:"), "it speaks TLS, though it refuses us: {}", out.stderr);
    assert!(out.stderr.contains("certs.d/localhost:"), "{}", out.stderr);

    let own = [("ca.pem", "ca.crt"), ("client.cert", "client.cert"), ("client.key", "client.key")];
    for place in ["docker", "containers"] {
        let dir = format!("home/.config/{place}/certs.d/{}", server.address);
        give(&rig, &server, &dir, &own);
        good(&run(&rig, &[], &["push", &name]));
        good(&run(&rig, &[], &["registry", "ls", &server.address]));
        // Half a pair is a fault of those who need it, and of nobody else.
        std::fs::remove_file(rig.path(&format!("{dir}/client.key"))).expect("removed");
        let out = run(&rig, &[], &["push", &name]);
        assert!(out.stderr.contains("client.cert has no "), "{}", out.stderr);
        good(&run(&rig, &[], &["build", &rig.dockerfile("FROM busybox\nCMD true\n")]));
        std::fs::remove_dir_all(rig.path("home")).expect("removed");
    }
    if who == Who::Root {
        // The machine's directories, in an /etc that only this process sees.
        let script = "set -e; cd \"$1\"; mkdir -p up work; mount -t tmpfs tmpfs work; mkdir work/u work/w\n\
            mount -t overlay -o lowerdir=/etc,upperdir=work/u,workdir=work/w overlay /etc\n\
            mkdir -p \"/etc/$2/certs.d/$3\"; cp own/* \"/etc/$2/certs.d/$3\"; shift 3; exec \"$@\"";
        give(&rig, &server, "own", &own);
        for place in ["docker", "containers"] {
            let mut command = Command::new("unshare");
            let binary = crate::rig::binary().display().to_string();
            command.args(["--mount", "sh", "-c", script, "sh", &rig.arg(""), place, &server.address, &binary]);
            succeed(command.args(["push", &name]).env("RBUILD_ROOT", rig.store()).env("HOME", rig.path("home")));
        }
    }
    traces::none(&rig);
}
