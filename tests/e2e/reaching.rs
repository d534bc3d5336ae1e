//! Getting to registries that are not open to everybody: logins, helpers, certificates, mirrors, no network at all.

use std::process::Command;

use crate::as_root_and_rootless;
use crate::registry::{Access, Server, publish};
use crate::rig::{Rig, Who, finish, installed, set_mode, start, succeed};

as_root_and_rootless! {
    a_login_is_tried_and_kept
    helpers_keep_secrets
    a_private_authority
    mirrors_and_blocks
    without_a_network
    newer_falls_back
    a_registry_that_hangs_is_given_up
    errors_say_what_to_do
}

/// Runs rbuild with its config in the rig, and something on stdin.
fn logged(rig: &Rig, args: &[&str], stdin: &str, path: Option<&str>) -> crate::rig::Output {
    use std::io::Write as _;
    let mut command = rig.command(args);
    command.env("DOCKER_CONFIG", rig.path("docker")).stdin(std::process::Stdio::piped());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = start(&mut command);
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("write");
    finish(child, args)
}

fn a_login_is_tried_and_kept(who: Who) {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(server) = Server::start_as(Access::Password) else { return };
    let rig = Rig::new(who);
    let host = server.address.as_str();
    let name = server.name("app:1");
    rig.ok(&["tag", "busybox", &name]);
    let refused = logged(&rig, &["push", &name], "", None);
    assert!(refused.stderr.contains("push access denied"), "{}", refused.stderr);

    let login = ["login", "-u", "alice", "--password-stdin", host];
    let wrong = logged(&rig, &login, "wrong\n", None);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(wrong.stderr.contains(&format!("{host} does not take this name and password")), "{}", wrong.stderr);
    assert!(!rig.path("docker/config.json").exists(), "what is not good is not kept");
    let no_terminal = logged(&rig, &["login", host], "", None);
    assert!(no_terminal.stderr.contains("non TTY device"), "{}", no_terminal.stderr);

    let right = logged(&rig, &login, "secret\n", None);
    assert_eq!((right.status.success(), right.stdout.as_str()), (true, "Login Succeeded\n"), "{}", right.stderr);
    assert!(right.stderr.contains("stored unencrypted"), "{}", right.stderr);
    let file = rig.path("docker/config.json");
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let again = logged(&rig, &["login", host], "", None);
    assert!(again.status.success() && again.stderr.contains("existing credentials"), "{}", again.stderr);

    let pushed = logged(&rig, &["push", &name], "", None);
    assert!(pushed.status.success(), "{}", pushed.stderr);
    let listed = logged(&rig, &["registry", "ls", host], "", None);
    assert_eq!(listed.stdout, "app\n");
    if installed("skopeo") && who == Who::Root {
        // Docker's and podman's tools read the same file.
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["inspect", "--tls-verify=false", "--authfile"]).arg(&file).arg(format!("docker://{name}"));
        assert!(succeed(&mut skopeo).contains("\"Architecture\""));
    }

    assert!(logged(&rig, &["logout", host], "", None).stdout.starts_with("Removing login credentials"));
    assert!(logged(&rig, &["logout", host], "", None).stdout.starts_with("Not logged in"));
    assert!(!logged(&rig, &["push", &name], "", None).status.success());
}

fn helpers_keep_secrets(who: Who) {
    let Some(server) = Server::start_as(Access::Password) else { return };
    let rig = Rig::new(who);
    rig.context(
        "bin",
        &[(
            "docker-credential-safe",
            "#!/bin/sh\ncd \"$(dirname \"$0\")\"\ncase $1 in\nstore) cat >kept ;;\n\
         get) test -f kept && cat kept || { echo credentials not found in native keychain; exit 1; } ;;\n\
         erase) rm -f kept ;;\nesac\n",
        )],
    );
    rig.context("docker", &[("config.json", r#"{"credsStore": "safe"}"#)]);
    set_mode(&rig.path("bin/docker-credential-safe"), 0o755);
    if let Some(user) = rig.user() {
        let owned = Command::new("chown").args(["-R", user]).args([rig.path("bin"), rig.path("docker")]).status();
        assert!(owned.expect("chown").success());
    }
    let path = format!("{}:{}", rig.arg("bin"), crate::rig::environment("PATH").unwrap_or_default());
    let host = server.address.as_str();
    let run = |args: &[&str], stdin: &str| logged(&rig, args, stdin, Some(&path));
    let login = run(&["login", "-u", "alice", "--password-stdin", host], "secret");
    assert!(login.status.success() && !login.stderr.contains("unencrypted"), "{}", login.stderr);
    let kept = std::fs::read_to_string(rig.path("bin/kept")).expect("kept");
    assert!(kept.contains("secret"), "{kept}");
    assert!(!std::fs::read_to_string(rig.path("docker/config.json")).expect("config").contains("secret"));
    let name = server.name("app:1");
    rig.ok(&["tag", "busybox", &name]);
    let pushed = run(&["push", &name], "");
    assert!(pushed.status.success(), "{}", pushed.stderr);
    assert!(run(&["logout", host], "").status.success());
    assert!(!rig.path("bin/kept").exists());
}

fn a_private_authority(who: Who) {
    if !installed("openssl") {
        return;
    }
    let Some(server) = Server::start_as(Access::Tls) else { return };
    let rig = Rig::new(who);
    let name = server.name("app:1");
    rig.ok(&["tag", "busybox", &name]);
    let ca = rig.path("ca.pem");
    server.file("ca.pem", &ca);
    set_mode(&ca, 0o644);
    let for_host = format!("{}={}", server.address, ca.display());
    rig.ok(&["push", "--registry-ca", &for_host, &name]);
    let dockerfile = rig.dockerfile(&format!("FROM {name}\nRUN echo 1 >/x\n"));
    let other = Rig::empty(who);
    other.build(&["--registry-ca", &for_host, &dockerfile]);

    // A certificate of somebody else is refused once an authority is named, and taken when the user says so.
    succeed(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"])
            .args(["-keyout", &rig.arg("other.key"), "-out", &rig.arg("other.pem")]),
    );
    set_mode(&rig.path("other.pem"), 0o644);
    let strange = format!("{}={}", server.address, rig.arg("other.pem"));
    let refused = other.fails(&["pull", "--registry-ca", &strange, &name]);
    assert!(refused.contains("certificate"), "{refused}");
    other.ok(&["pull", "--registry-ca", &strange, "--insecure-registry", &server.address, &name]);
    let missing = other.fails(&["pull", "--registry-ca", "nothing.pem", &name]);
    assert!(missing.contains("--registry-ca nothing.pem: no such file or directory"), "{missing}");
}

fn mirrors_and_blocks(who: Who) {
    let Some(server) = Server::start() else { return };
    let author = Rig::new(who);
    publish(&author, &server.name("hub/library/tiny:1"));
    let rig = Rig::empty(who);
    let mirror = format!("http://{}/hub", server.address);
    let context = rig.dockerfile("FROM tiny:1\nRUN echo 1 >/x\n");
    rig.build(&["--registry-mirror", &mirror, "-t", "app", &context]);
    assert!(server.requests("/v2/hub/library/tiny/manifests/1?ns=docker.io") > 0);

    let conf = rig.context(
        "conf",
        &[(
            "registries.conf",
            &format!(
                "[[registry]]\nprefix = 'moved.example/team'\nlocation = '{0}/hub/library'\n\
                 [[registry]]\nprefix = 'blocked.example'\nblocked = true\n\
                 [[registry]]\nprefix = 'mirrored.example'\n[[registry.mirror]]\nlocation = '{0}/hub'\n",
                server.address
            ),
        )],
    );
    let with_conf = |args: &[&str]| {
        let mut command = rig.command(args);
        finish(start(command.env("CONTAINERS_REGISTRIES_CONF", format!("{conf}/registries.conf"))), args)
    };
    for name in ["moved.example/team/tiny:1", "mirrored.example/library/tiny:1"] {
        let pulled = with_conf(&["pull", name]);
        assert!(pulled.status.success(), "{name}: {}", pulled.stderr);
    }
    let blocked = with_conf(&["pull", "blocked.example/x"]);
    assert!(blocked.stderr.contains("blocked.example/x: blocked by registries.conf"), "{}", blocked.stderr);
}

fn without_a_network(who: Who) {
    let Some(server) = Server::start() else { return };
    let author = Rig::new(who);
    let name = server.name("base:1");
    publish(&author, &name);
    let rig = Rig::empty(who);
    let context = rig.dockerfile(&format!("FROM {name}\nRUN echo 1 >/x\n"));
    let refused = rig.fails(&["build", "--offline", &context]);
    assert!(refused.contains("not in the store, and --offline forbids to ask for it"), "{refused}");
    assert_eq!(server.requests("/v2/base/manifests/1"), 1, "only the push");
    rig.build(&[&context]);
    let before = server.requests("");
    rig.build(&["--offline", "--no-cache", &context]);
    rig.build(&["--offline", "--pull=newer", &context]);
    assert_eq!(server.requests(""), before, "nobody was asked");
    let refused = rig.fails(&["build", "--offline", "--pull", &context]);
    assert!(refused.contains("--pull=always and --offline contradict one another"), "{refused}");
    // The config alone was fetched: what needs the layers says so.
    let lazy = Rig::empty(who);
    lazy.build(&[&lazy.dockerfile(&format!("FROM {name}\nENV a=b\n"))]);
    let refused = lazy.fails(&["build", "--offline", &context]);
    assert!(refused.contains("--offline"), "{refused}");
}

fn newer_falls_back(who: Who) {
    let Some(server) = Server::start() else { return };
    let author = Rig::new(who);
    let name = server.name("base:1");
    publish(&author, &name);
    let rig = Rig::empty(who);
    let context = rig.dockerfile(&format!("FROM {name}\nRUN echo 1 >/x\n"));
    rig.build(&["--pull=newer", &context]);
    drop(server);
    let log = rig.build(&["--pull=newer", &context]);
    assert!(log.contains("using the image that is in the store"), "{log}");
    assert!(log.contains("1 warning found"), "{log}");
    let refused = rig.fails(&["build", "--pull=always", &context]);
    assert!(refused.contains("failed to do request"), "{refused}");
    rig.build(&["--pull=never", &context]);
    rig.build(&[&context]);
}

fn a_registry_that_hangs_is_given_up(who: Who) {
    let rig = Rig::new(who);
    // It takes connections and requests, and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = mute.local_addr().expect("address").to_string();
    let (name, timeout) = (format!("{address}/app:1"), ["--registry-timeout", "1"]);
    rig.ok(&["tag", "busybox", &name]);
    let context = rig.dockerfile(&format!("FROM {address}/base\nRUN true\n"));
    for args in [&["build", &context][..], &["pull", &name], &["push", &name], &["registry", "tags", &name]] {
        let log = rig.fails(&[args, &timeout].concat());
        assert!(log.contains(&format!("http://{address}/v2/")) && log.contains("nothing moved for 1 s"), "{log}");
        assert!(log.contains("help: ") && log.contains("--registry-timeout"), "{log}");
    }
}

fn errors_say_what_to_do(who: Who) {
    let (Some(closed), Some(open)) = (Server::start_as(Access::Password), Server::start()) else { return };
    let rig = Rig::new(who);
    let login = format!("help: nothing is known about who you are at {0}: `rbuild login {0}`", closed.address);
    let name = closed.name("app:1");
    rig.ok(&["tag", "busybox", &name]);
    let context = rig.dockerfile(&format!("FROM {name}\nRUN true\n"));
    for args in
        [&["build", "--pull", &context][..], &["pull", &name], &["push", &name], &["registry", "ls", &closed.address]]
    {
        let log = rig.fails(args);
        assert!(log.contains(&login), "{args:?}: {log}");
    }
    let pushing = rig.dockerfile("FROM busybox\n");
    let log = rig.fails(&["build", "-t", &name, "--push", &pushing]);
    assert!(log.contains(&login), "{log}");
    // Nothing of that name is another thing than nobody there.
    let log = rig.fails(&["pull", &open.name("none:1")]);
    assert!(log.contains(&format!("{}: not found", open.name("none:1"))) && !log.contains("help:"), "{log}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port").to_string();
    let log = rig.fails(&["registry", "tags", &format!("{nobody}/x")]);
    assert!(log.contains(&format!("help: nobody listens at {nobody}")), "{log}");
}
