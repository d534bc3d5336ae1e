//! Command lines and what is decided about them.

use std::ffi::OsString;

use super::*;
use crate::cli::args::{Task, parse};
use crate::export::output::{Dest, Kind, Output, Push};

/// A directory with a Dockerfile and surroundings in it.
fn with_env(vars: &[(&str, &str)], test: impl FnOnce(&Env)) {
    let dir = tempfile::tempdir().expect("temp dir");
    fs_err::write(dir.path().join("Dockerfile"), "FROM scratch\n").expect("writable");
    fs_err::write(dir.path().join("token"), "s3cret").expect("writable");
    fs_err::create_dir(dir.path().join("sub")).expect("writable");
    test(&Env::test(dir.path(), vars));
}

fn decide(env: &Env, line: &str) -> Result<BuildRequest, RequestError> {
    let words = std::iter::once("rbuild").chain(line.split(' ').filter(|word| !word.is_empty()));
    match parse(words.map(OsString::from)).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Task::Build(args) => BuildRequest::new(&args, env),
        other => panic!("{line}: {other:?}"),
    }
}

fn ok(env: &Env, line: &str) -> BuildRequest {
    decide(env, line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn reference(text: &str) -> Reference {
    Reference::parse_tagged(text).expect(text)
}

#[test]
fn errors_in_dockers_words() {
    with_env(&[("SSH_AUTH_SOCK", "")], |env| {
        for (line, want) in [
            (
                "-t App .",
                "failed to build: invalid tag \"App\": invalid reference format: repository name (library/App) must be lowercase",
            ),
            ("-t a:b:c .", "failed to build: invalid tag \"a:b:c\": invalid reference format"),
            ("nowhere", "failed to build: unable to prepare context: path \"nowhere\" not found"),
            (
                "Dockerfile",
                "failed to build: unable to prepare context: path \"Dockerfile\" not found (it is a file; a context is a directory, -f names the Dockerfile)",
            ),
            ("-f - -", "failed to build: invalid argument: can't use stdin for both build context and dockerfile"),
            ("--progress=plain -q .", "progress=plain and quiet cannot be used together"),
            ("--progress=x .", "invalid progress mode x"),
            ("--build-arg =x .", "invalid key-value pair \"=x\": empty key"),
            ("--label =x .", "invalid key-value pair \"=x\": empty key"),
            (
                "--no-cache --no-cache-filter a .",
                "failed to build: --no-cache and --no-cache-filter cannot currently be used together",
            ),
            ("--push .", "failed to build: tag is needed when pushing to registry"),
            ("-o type=registry .", "failed to build: tag is needed when pushing to registry"),
            ("--iidfile x -o out .", "local and tar exporters are incompatible with image ID file"),
            ("--iidfile x -o type=tar,dest=t .", "local and tar exporters are incompatible with image ID file"),
            ("-o type=oci,x .", "invalid value x"),
            ("-o dest=x,name=y .", "type is required for output"),
            ("-o type=local .", "failed to build: dest is required for local exporter"),
            ("-o type=local,dest=- .", "failed to build: dest cannot be stdout for local exporter"),
            ("-o Dockerfile .", "failed to build: destination directory Dockerfile is a file"),
            ("-o type=oci,dest=sub .", "failed to build: destination file sub is a directory"),
            ("-o - -o type=oci .", "failed to build: multiple outputs configured to write to stdout"),
            ("-o type=nonsense .", "failed to build: exporter \"nonsense\" could not be found"),
            ("-o type=oci,dest=x,foo=bar .", "unknown attribute \"foo\" of output type oci"),
            ("-o type=local,dest=x,name=a .", "unknown attribute \"name\" of output type local"),
            (
                "-o type=image,compression=lz4 .",
                "invalid value \"lz4\" for compression: expected gzip, zstd or uncompressed",
            ),
            (
                "-o type=image,compression-level=10 .",
                "invalid value \"10\" for compression-level: expected a number from 0 to 9",
            ),
            ("-o type=image,push=maybe .", "invalid value \"maybe\" for push: expected true or false"),
            ("--secret id=a,src=none .", "failed to build: failed to stat none: stat none: no such file or directory"),
            ("--secret id=none .", "failed to build: failed to stat none: stat none: no such file or directory"),
            ("--secret src=token .", "failed to build: secret missing ID"),
            ("--secret id=a,type=x .", "unsupported secret type \"x\""),
            ("--secret id=a,x=y .", "unexpected key 'x' in 'x=y'"),
            ("--secret a .", "invalid field 'a' must be a key=value pair"),
            (
                "--ssh default .",
                "failed to build: invalid --ssh default: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set",
            ),
            ("--ssh x=none .", "failed to build: invalid --ssh x=none: stat none: no such file or directory"),
            ("--network bridge .", "failed to build: network mode \"bridge\" not supported; use default, none or host"),
            ("--add-host x .", "failed to build: invalid host x"),
            ("--allow everything .", "failed to build: invalid entitlement: everything"),
            ("--ulimit x=1 .", "invalid ulimit type: x"),
            ("--shm-size x .", "--shm-size: invalid size: 'x'"),
            ("--cache-from type=gha .", "cache type gha is not supported: use registry, local, s3 or inline"),
            ("--cache-to type=local,dest=x,y=1 .", "unknown attribute \"y\" of --cache-to type=local"),
            ("-m x .", "--memory: invalid size: 'x'"),
            ("--security-opt x .", "--security-opt is not supported yet"),
            ("--provenance=true .", "--provenance: attestations are not supported yet; only --provenance=false is"),
            ("--provenance=mode=max .", "--provenance: attestations are not supported yet; only --provenance=false is"),
            ("--sbom=1 .", "--sbom: attestations are not supported yet; only --sbom=false is"),
            ("--isolation=hyperv .", "--isolation=hyperv is not supported; on Linux there is only \"default\""),
            ("--pull=sometimes .", "--pull=sometimes: use always, missing, newer or never"),
            ("--build-context x .", "invalid context value: x, expected key=value"),
            (
                "--build-context x=none .",
                "failed to build: failed to get build context x: stat none: no such file or directory",
            ),
            (
                "--build-context x=token .",
                "failed to build: failed to get build context path {token <nil>}: not a directory",
            ),
            (
                "--build-arg BUILDKIT_MULTI_PLATFORM=maybe .",
                "failed to build: invalid boolean value for multi-platform: maybe",
            ),
            (
                "--build-arg BUILDKIT_MULTI_PLATFORM=0 --platform linux/amd64,linux/arm64 .",
                "failed to build: conflicting config: returning multiple target platforms is not allowed",
            ),
        ] {
            match decide(env, line) {
                Ok(request) => panic!("{line}: {request:?}"),
                Err(error) => assert_eq!(error.to_string(), want, "{line}"),
            }
        }
    });
}

#[test]
fn the_usual_build() {
    with_env(&[], |env| {
        let request = ok(env, "-t app -t docker.io/library/app:latest -t b:1 .");
        assert_eq!(request.context, ContextSource::Directory(env.cwd.join(".")));
        assert_eq!(request.dockerfile, DockerfileSource::File(env.cwd.join("./Dockerfile")));
        let names = vec![reference("app"), reference("b:1")];
        assert_eq!(request.tags, names);
        assert_eq!(request.outputs, [OutputSpec::Export(Output { names, ..Output::store() })]);
        assert_eq!(request.plan.no_cache, NoCache::Nothing);
        assert_eq!(request.plan.target_platform, None);
        assert_eq!((request.pull, request.allow, request.call), (PullPolicy::Missing, Allow::default(), None));
        assert!(request.plan.build_args.is_empty() && request.secrets.is_empty() && request.notes.is_empty());
    });
}

#[test]
fn harmless_options_do_nothing() {
    with_env(&[], |env| {
        let line =
            "--rm --force-rm=false --compress --isolation=default --provenance=false --sbom=0 --network=default .";
        assert_eq!(ok(env, line).outputs.len(), 1);
    });
}

#[test]
fn build_args_come_from_line_environment_and_config() {
    let config = r#"{"auths":{},"proxies":{"default":{"httpProxy":"http://p","noProxy":"x"}}}"#;
    with_env(&[("HOME", "/nowhere"), ("SOURCE_DATE_EPOCH", "7"), ("A", "1"), ("DOCKER_CONFIG", "sub")], |env| {
        fs_err::write(env.cwd.join("sub/config.json"), config).expect("writable");
        let args = |line: &str| {
            let got = ok(env, line).plan.build_args.into_iter();
            got.map(|(name, value)| format!("{name}={}", value.unwrap_or_default())).collect::<Vec<_>>().join(" ")
        };
        let proxies = "HTTP_PROXY=http://p NO_PROXY=x SOURCE_DATE_EPOCH=7 http_proxy=http://p no_proxy=x";
        assert_eq!(args("."), proxies);
        assert_eq!(args("--build-arg A --build-arg UNSET --build-arg B= ."), format!("A=1 B= {proxies}"));
        assert_eq!(
            args("--build-arg Http_Proxy= --build-arg SOURCE_DATE_EPOCH=9 ."),
            "Http_Proxy= NO_PROXY=x SOURCE_DATE_EPOCH=9 no_proxy=x"
        );
        fs_err::write(env.cwd.join("sub/config.json"), "{").expect("writable");
        assert_eq!(ok(env, ".").notes.len(), 1);
    });
}

#[test]
fn contexts_and_dockerfiles() {
    with_env(&[], |env| {
        let git = |text: &str| ContextSource::Git(text.to_owned());
        let http = |text: &str| ContextSource::Http(text.to_owned());
        let inside = |path: Option<&str>| DockerfileSource::InContext(path.map(str::to_owned));
        let file = |path: &str| DockerfileSource::File(env.cwd.join(path));
        let dir = ContextSource::Directory(env.cwd.join("."));
        let sock = "SSH";
        for (line, context, dockerfile) in [
            (".", dir.clone(), file("./Dockerfile")),
            ("-f other .", dir.clone(), file("other")),
            ("-f sub/Dockerfile .", dir.clone(), file("sub/Dockerfile")),
            ("-f - .", dir.clone(), DockerfileSource::Stdin),
            ("-f https://h/D .", dir, DockerfileSource::Http("https://h/D".to_owned())),
            ("-", ContextSource::Stdin, inside(None)),
            ("-f x -", ContextSource::Stdin, inside(Some("x"))),
            ("https://h/a.git", git("https://h/a.git"), inside(None)),
            ("https://h/a.git#main:dir", git("https://h/a.git#main:dir"), inside(None)),
            ("https://h/a.git?tag=1", git("https://h/a.git?tag=1"), inside(None)),
            ("-f x git://h/a", git("git://h/a"), inside(Some("x"))),
            ("-f /x github.com/a/b", git("github.com/a/b"), DockerfileSource::File("/x".into())),
            ("https://h/a.tar.gz", http("https://h/a.tar.gz"), inside(None)),
            ("-f - http://h/a.tar", http("http://h/a.tar"), DockerfileSource::Stdin),
        ] {
            let request = ok(env, line);
            assert_eq!((request.context, request.dockerfile), (context, dockerfile), "{line}{sock}");
        }
        fs_err::rename(env.cwd.join("Dockerfile"), env.cwd.join("dockerfile")).expect("writable");
        assert_eq!(ok(env, ".").dockerfile, file("./dockerfile"));
        fs_err::remove_file(env.cwd.join("dockerfile")).expect("writable");
        assert_eq!(ok(env, ".").dockerfile, file("./Dockerfile"), "its absence is the build's matter");
    });
}

#[test]
fn a_context_over_ssh_takes_the_agent() {
    with_env(&[("SSH_AUTH_SOCK", "agent")], |env| {
        let _agent = std::os::unix::net::UnixListener::bind(env.cwd.join("agent")).expect("bindable");
        let agents = |line: &str| ok(env, line).ssh.into_keys().collect::<Vec<_>>().join(" ");
        assert_eq!(agents("git@h:a/b.git"), "default");
        assert_eq!(agents("ssh://h/a"), "default");
        assert_eq!(agents("https://h/a.git"), "");
        assert_eq!(agents("--ssh default --ssh b=agent ."), "b default");
        let error = |line: &str| decide(env, line).expect_err(line).to_string();
        assert_eq!(error("--ssh a --ssh a ."), "failed to build: duplicate agent ID \"a\"");
        fs_err::write(env.cwd.join("token"), "x").expect("writable");
        let invalid = |spec: &str, text: &str| {
            assert_eq!(error(&format!("--ssh {spec} .")), format!("failed to build: invalid --ssh {spec}: {text}"));
        };
        invalid("a=token", "failed to parse token: no private key found");
        invalid("a=agent,agent", "only single socket allowed");
        invalid("a=token,raw=true", "raw mode only supported with socket paths");
        invalid("a=agent,agent,raw=true", "raw mode must supply exactly one socket path");
        invalid("a=agent,raw=perhaps", "invalid value for 'raw': perhaps");
        invalid("a=none", "stat none: no such file or directory");
        let raw = ok(env, "--ssh a=agent,raw=true .").ssh;
        assert_eq!(raw["a"], SshSource::Raw(env.cwd.join("agent")));
    });
}

#[test]
fn named_contexts() {
    with_env(&[], |env| {
        let line = "--build-context docker.io/library/alpine:latest=docker-image://busybox --build-context src=sub \
                    --build-context layout=oci-layout://dir:tag --build-context repo=https://h/a.git \
                    --build-context base::linux/arm64=docker-image://x --build-context src=./sub .";
        let request = ok(env, line);
        let plan: Vec<_> = request.plan.named_contexts.iter().map(|(name, kind)| format!("{name}={kind:?}")).collect();
        let want = [
            r#"alpine=Image("busybox")"#,
            r#"base::linux/arm64=Image("x")"#,
            r#"layout=Layout("oci-layout://dir:tag")"#,
            "repo=Files { epoch: None }",
            "src=Files { epoch: None }",
        ];
        assert_eq!(plan, want);
        let src = ContextSource::Directory(env.cwd.join("./sub"));
        let repo = ContextSource::Git("https://h/a.git".to_owned());
        assert_eq!(request.named_contexts, BTreeMap::from([("src".to_owned(), src), ("repo".to_owned(), repo)]));
    });
}

#[test]
fn secrets() {
    with_env(&[("TOKEN", "from env"), ("token", "variable first")], |env| {
        fs_err::write(env.cwd.join("file-id"), "by id").expect("writable");
        for (spec, id, want) in [
            ("id=a,src=token", "a", "s3cret"),
            ("id=a,source=token,type=file", "a", "s3cret"),
            ("id=a,env=TOKEN", "a", "from env"),
            ("type=env,id=a,src=TOKEN", "a", "from env"),
            ("id=a,env=UNSET", "a", ""),
            ("id=token", "token", "variable first"),
            ("id=file-id", "file-id", "by id"),
        ] {
            let request = ok(env, &format!("--secret {spec} ."));
            assert_eq!(request.secrets.get(id), Some(&SecretValue(want.into())), "{spec}");
            assert!(!format!("{request:?}").contains("s3cret"));
        }
        fs_err::write(env.cwd.join("big"), vec![0; 500 * 1024 + 1]).expect("writable");
        let error = decide(env, "--secret id=b,src=big .").expect_err("too big").to_string();
        assert_eq!(error, "failed to build: secret b too big. max size 500KiB");
        let error = decide(env, "--secret id=b,src=sub .").expect_err("a directory").to_string();
        assert_eq!(error, "failed to build: failed to read secret b: read sub: is a directory");
    });
}

#[test]
fn outputs() {
    with_env(&[], |env| {
        let app = vec![reference("app")];
        let export =
            |kind, names: &[Reference]| OutputSpec::Export(Output { kind, names: names.to_vec(), ..Output::store() });
        let image = |push| export(Kind::Image(push), &app);
        let archive = |docker, dest| export(Kind::Archive { docker, dest }, &app);
        let load = || {
            let kind = Kind::Archive { docker: true, dest: Dest::Stream };
            OutputSpec::Load(Output { kind, names: app.clone(), ..Output::store() })
        };
        let tar = |dest| export(Kind::Tar { dest, platform_split: None }, &[]);
        let local = || export(Kind::Local { dest: env.cwd.join("out"), platform_split: None }, &[]);
        let file = |name: &str| Dest::File(env.cwd.join(name));
        let push = Some(Push::default());
        for (line, want) in [
            ("-o out", vec![local()]),
            ("-o -", vec![tar(Dest::Stream)]),
            ("-o type=tar,dest=x.tar", vec![tar(file("x.tar"))]),
            ("-o type=oci,dest=x.tar", vec![archive(false, file("x.tar"))]),
            ("-o type=oci", vec![archive(false, Dest::Stream)]),
            ("-o type=oci,dest=d,tar=false", vec![archive(false, Dest::Directory(env.cwd.join("d")))]),
            ("-o type=docker,dest=x.tar", vec![archive(true, file("x.tar"))]),
            ("-o type=docker", vec![load()]),
            ("--load", vec![load()]),
            ("--load -o type=docker", vec![load()]),
            ("--push", vec![image(push.clone())]),
            ("--push -o type=image", vec![image(push.clone())]),
            ("--push -o out", vec![local(), image(push.clone())]),
            ("-o type=registry", vec![image(push.clone())]),
            ("-o type=image,push=true", vec![image(push)]),
            ("-o type=image,push=false", vec![image(None)]),
            ("-o type=image,name=other", vec![image(None)]),
            ("-o type=cacheonly", vec![export(Kind::CacheOnly, &[])]),
            (
                "-o type=registry,push-by-digest=true,registry.insecure=true",
                vec![image(Some(Push { by_digest: true, insecure: true }))],
            ),
        ] {
            assert_eq!(ok(env, &format!("-t app {line} .")).outputs, want, "{line}");
        }
        let named = ok(env, r#"-o type=registry,"name=h:5000/a,b:2" ."#);
        let names = [reference("h:5000/a"), reference("b:2")];
        assert_eq!(named.outputs, [export(Kind::Image(Some(Push::default())), &names)]);
        let on_terminal = Env { stdout_is_terminal: true, ..env.clone() };
        let error = decide(&on_terminal, "-o - .").expect_err("a terminal").to_string();
        assert_eq!(error, "failed to build: dest file is required for tar exporter. refusing to write to console");
    });
}

#[test]
fn the_rest() {
    with_env(&[("DOCKER_DEFAULT_PLATFORM", "linux/arm64")], |env| {
        let platform = |line: &str| ok(env, line).plan.target_platform.map(|platform| platform.short());
        assert_eq!(platform(".").as_deref(), Some("linux/arm64"));
        assert_eq!(platform("--platform linux/arm/v7 .").as_deref(), Some("linux/arm/v7"));
        assert_eq!(platform("--platform linux/x86_64,amd64 .").as_deref(), Some("linux/amd64"));
        let several = ok(env, "--platform linux/amd64,linux/arm64 .");
        assert_eq!((several.platforms.len(), several.plan.multi_platform), (2, true));
        assert_eq!(platform("--platform local ."), Some(Platform::host().short()));
        let request = ok(
            env,
            "--network host --allow security.insecure --add-host a:1.2.3.4 --shm-size 64m --ulimit nofile=2 --ulimit cpu=1 \
             --ulimit nofile=1:3 --no-cache-filter a,b --pull --target T --label a=b --label c --jobs 3 --explain \
             --iidfile i --metadata-file m --check .",
        );
        assert_eq!(request.allow, Allow { network_host: true, security_insecure: true });
        let plan = &request.plan;
        assert_eq!(plan.add_hosts, [("a".to_owned(), "1.2.3.4".to_owned())]);
        assert_eq!(plan.shm_size, Some(64 << 20));
        assert_eq!(plan.ulimits, [("cpu".to_owned(), 1, 1), ("nofile".to_owned(), 1, 3)]);
        assert_eq!(plan.no_cache, NoCache::Stages(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(plan.target.as_deref(), Some("T"));
        assert!(!plan.all_stages, "a target was named");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(plan.labels, BTreeMap::from([pair("a", "b"), pair("c", "")]));
        assert_eq!((request.pull, request.jobs.map(NonZeroUsize::get)), (PullPolicy::Always, Some(3)));
        assert_eq!(request.iidfile, Some(env.cwd.join("i")));
        assert!(request.explain);
        assert!(ok(env, "--check .").plan.all_stages);
        for (text, want) in [
            ("--pull=never", PullPolicy::Never),
            ("--pull=false", PullPolicy::Missing),
            ("--pull=newer", PullPolicy::Newer),
        ] {
            assert_eq!(ok(env, &format!("{text} .")).pull, want);
        }
        let inline = ok(env, "--build-arg BUILDKIT_INLINE_CACHE=1 .");
        assert_eq!((inline.cache_to, inline.notes.len()), (vec![crate::exchange::spec::Target::inline()], 0));
    });
}

#[test]
fn stdin_is_an_archive_or_a_dockerfile() {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut tar::Header::new_old(), "Dockerfile", &b""[..]).expect("memory");
    let tar = tar.into_inner().expect("memory");
    let (default, named) = (DockerfileSource::InContext(None), DockerfileSource::InContext(Some("x".to_owned())));
    for head in [&tar[..], b"\x1f\x8b\x08...", b"BZh9", &[0; 1024]] {
        assert_eq!(stdin_kind(head, &default), Ok(StdinKind::Archive));
        assert_eq!(stdin_kind(head, &named), Ok(StdinKind::Archive));
    }
    for head in [&b"FROM scratch\n"[..], b"", &[b'#'; 600]] {
        assert_eq!(stdin_kind(head, &default), Ok(StdinKind::Dockerfile));
        let error = stdin_kind(head, &named).expect_err("-f was given").to_string();
        assert_eq!(
            error,
            "failed to build: ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"
        );
    }
}

#[test]
fn prunes() {
    let decide =
        |line: &str| match parse(line.split(' ').map(OsString::from)).unwrap_or_else(|error| panic!("{error}")).command
        {
            Task::Prune(args) => PruneRequest::new(&args).map_err(|error| error.to_string()),
            other => panic!("{line}: {other:?}"),
        };
    let day = Filter::new(&["until=24h".to_owned()]).expect("valid");
    let request = decide("rbuild prune -a --filter until=24h --max-used-space 10GB").expect("valid");
    let want = PruneRequest { all: true, filter: day, max_used: Some(10_000_000_000), ..PruneRequest::default() };
    assert_eq!(request, want);
    let kept = decide("rbuild prune --keep-storage 1GB").expect("valid");
    assert_eq!(kept, PruneRequest { keep: 1_000_000_000, ..PruneRequest::default() });
    assert_eq!(decide("rbuild prune -f").expect("valid"), PruneRequest { force: true, ..PruneRequest::default() });
    let table = [
        ("rbuild prune --filter until=x", "invalid filter \"until=x\": time: invalid duration \"x\""),
        (
            "rbuild prune --filter parent=x",
            "filter \"parent\" is not supported; use until, id, type, inuse, mutable, immutable, shared, private or description",
        ),
        ("rbuild prune --max-used-space x", "--max-used-space: invalid size: 'x'"),
    ];
    for (line, want) in table {
        assert_eq!(decide(line), Err(want.to_owned()));
    }
}

#[test]
fn stores() {
    with_env(&[("HOME", "/home/u"), ("RBUILD_STORE_MAX", "1GB")], |env| {
        let store = |root: Option<&str>, max: Option<&str>| {
            let globals = Globals { root: root.map(PathBuf::from), store_max: max.map(str::to_owned), debug: false };
            StoreRequest::new(&globals, env).map(|store| (store.root, store.max_bytes))
        };
        assert_eq!(store(None, None), Ok(("/home/u/.local/share/rbuild".into(), Some(1_000_000_000))));
        assert_eq!(store(Some("s"), Some("2GiB")), Ok((env.cwd.join("s"), Some(2 << 30))));
        assert_eq!(store(None, Some("x")), Err(RequestError::Usage("--store-max: invalid size: 'x'".to_owned())));
        assert!(StoreRequest::new(&Globals::default(), &Env::default()).is_err());
    });
}

#[test]
fn runs() {
    with_env(&[("A", "1")], |env| {
        let run = |line: &str| {
            let words = std::iter::once("rbuild").chain(line.split(' '));
            match parse(words.map(OsString::from)).unwrap_or_else(|error| panic!("{line}: {error}")).command {
                Task::Run(args) => RunRequest::new(&args, env).map_err(|error| error.to_string()),
                other => panic!("{line}: {other:?}"),
            }
        };
        let request = run("run --rm -it -e A -e B=2 -e C -v sub:/s:ro -w /w -u bob --entrypoint sh img -c --rm -e")
            .expect("valid");
        assert_eq!(request.command, ["-c", "--rm", "-e"]);
        assert_eq!(request.env, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
        assert_eq!(request.volumes, [Volume { host: env.cwd.join("sub"), target: "/s".to_owned(), readonly: true }]);
        assert_eq!((request.image.as_str(), request.interactive, request.tty), ("img", true, true));
        assert_eq!(run("run img --version").expect("valid").command, ["--version"]);
        for line in [
            "run -v x img",
            "run -v none:/x img",
            "run -v sub:x img",
            "run -v sub:/x:z img",
            "run -w x img",
            "run -e =x img",
        ] {
            assert!(run(line).is_err(), "{line}");
        }
    });
}
