//! As a user without subordinate ids: simple builds work, and what does not is said.

use crate::image::Image;
use crate::rig::{Rig, Who, can_run};
use crate::traces;

#[test]
fn rootless_with_a_single_id() {
    if !can_run(Who::Single) {
        return;
    }
    let rig = Rig::new(Who::Single);
    let said = rig.ok(&["doctor"]).stdout;
    assert!(said.contains("single") || said.contains("one id"), "{said}");
    let text = "FROM busybox AS made\nWORKDIR /src\nCOPY a .\nRUN cat a a >b && chmod 0750 b\n\
                FROM scratch\nCOPY --from=made --chown=33:33 /src/b /b\n";
    let context = rig.context("context", &[("Dockerfile", text), ("a", "1\n")]);
    rig.build(&["-t", "single:1", &context]);
    rig.build(&["-o", &format!("type=oci,dest={}", rig.arg("out.tar")), &context]);
    let image = Image::read(&rig.path("out.tar"));
    let made = &image.files["/b"];
    assert_eq!(made.content, b"1\n1\n");
    assert_eq!((made.mode & 0o7777, made.uid, made.gid), (0o750, 33, 33), "COPY records what it was told");
    assert_eq!(rig.ok(&["run", "--rm", "busybox", "echo", "hi"]).stdout, "hi\n");
    traces::none(&rig);
}
