/* Tries what a step must not be able to do, and says for each attempt "refused" or "ALLOWED". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/netlink.h>

static void say(const char *what, long result)
{
    printf("%s %s (%s)\n", result < 0 ? "refused" : "ALLOWED", what, result < 0 ? strerror(errno) : "-");
    fflush(stdout);
}

/* In a child, as some successes would change this process. */
#define TRY(what, expression) do { \
        pid_t child = fork(); \
        if (child == 0) { say(what, (long)(expression)); _exit(0); } \
        waitpid(child, NULL, 0); \
    } while (0)

static long open_and_close(const char *path, int flags)
{
    int fd = open(path, flags | O_NONBLOCK);
    if (fd < 0) return -1;
    close(fd);
    return 0;
}

static long device(const char *path, mode_t kind, int major, int minor)
{
    unlink(path);
    if (mknod(path, kind | 0666, makedev(major, minor)) < 0) return -1;
    long result = open_and_close(path, O_RDONLY);
    int error = errno;
    unlink(path);
    errno = error;
    return result;
}

static long clone_into(unsigned long flags)
{
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(0);
    return pid;
}

static long clone3_into(unsigned long long flags)
{
    unsigned long long args[8] = {flags, 0, 0, 0, SIGCHLD, 0, 0, 0};
    long pid = syscall(SYS_clone3, args, sizeof args);
    if (pid == 0) _exit(0);
    return pid;
}

static long abstract_socket(const char *name)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, name, sizeof address.sun_path - 1);
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}

static long chroot_escape(const char *outside)
{
    /* The classic: chroot deeper while holding a directory, then climb. */
    mkdir("/tmp/deeper", 0755);
    int here = open("/", O_RDONLY | O_DIRECTORY);
    if (chroot("/tmp/deeper") < 0) return -1;
    if (fchdir(here) < 0) return -1;
    for (int i = 0; i < 64; i++) if (chdir("..") < 0) return -1;
    if (chroot(".") < 0) return -1;
    return open_and_close(outside, O_RDONLY);
}

static long handle(const char *path)
{
    struct { struct file_handle handle; unsigned char bytes[128]; } it;
    int mount_id;
    it.handle.handle_bytes = 128;
    if (name_to_handle_at(AT_FDCWD, path, &it.handle, &mount_id, 0) < 0) return -1;
    int root = open("/", O_RDONLY);
    return syscall(SYS_open_by_handle_at, root, &it.handle, O_RDONLY);
}

int main(int argc, char **argv)
{
    const char *outside = argc > 2 ? argv[2] : "/nowhere";
    char path[256];
    int host_pid = argc > 1 ? atoi(argv[1]) : 1;

    TRY("open the outside", open_and_close(outside, O_RDONLY));
    snprintf(path, sizeof path, "/proc/1/root%s", outside);
    TRY("open the outside through pid 1", open_and_close(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/root", host_pid);
    TRY("open the root of a process outside", open_and_close(path, O_RDONLY));
    for (int fd = 3; fd < 64; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        struct stat found;
        if (stat(path, &found) == 0) printf("ALLOWED descriptor %d is open\n", fd);
        snprintf(path, sizeof path, "/proc/1/fd/%d", fd);
        if (stat(path, &found) == 0) printf("ALLOWED descriptor %d of pid 1 is open\n", fd);
    }
    printf("refused no descriptor leaked\n");
    TRY("escape by chroot", chroot_escape(outside));
    TRY("open by handle", handle("/bin/busybox"));

    TRY("mount a tmpfs", mount("none", "/tmp", "tmpfs", 0, ""));
    TRY("mount proc", mount("none", "/tmp", "proc", 0, ""));
    TRY("bind mount", mount("/bin", "/tmp", "", MS_BIND, ""));
    TRY("remount the root", mount("none", "/", "", MS_REMOUNT | MS_BIND, ""));
    TRY("remount /proc/sys writable", mount("none", "/proc/sys", "", MS_REMOUNT | MS_BIND, ""));
    TRY("change propagation", mount("none", "/", "", MS_SHARED | MS_REC, ""));
    TRY("unmount a mask", umount2("/proc/keys", MNT_DETACH));
    TRY("unmount /proc", umount2("/proc", MNT_DETACH));
    TRY("unmount /etc/hosts", umount2("/etc/hosts", MNT_DETACH));
    TRY("unmount /sys", umount2("/sys", MNT_DETACH));
    TRY("pivot_root", syscall(SYS_pivot_root, ".", "."));
    TRY("open_tree clone", syscall(SYS_open_tree, AT_FDCWD, "/", 1 | O_CLOEXEC | 0x8000));
    TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY("fspick", syscall(SYS_fspick, AT_FDCWD, "/", 0));
    TRY("move_mount", syscall(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/tmp", 0));
    unsigned long long attributes[4] = {0, 1, 0, 0};
    TRY("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/proc/sys", 0, attributes, sizeof attributes));

    TRY("unshare user", unshare(CLONE_NEWUSER));
    TRY("unshare mount", unshare(CLONE_NEWNS));
    TRY("unshare pid", unshare(CLONE_NEWPID));
    TRY("unshare net", unshare(CLONE_NEWNET));
    TRY("unshare cgroup", unshare(CLONE_NEWCGROUP));
    TRY("clone into a user namespace", clone_into(CLONE_NEWUSER));
    TRY("clone into a mount namespace", clone_into(CLONE_NEWNS));
    TRY("clone3 into a user namespace", clone3_into(CLONE_NEWUSER));
    TRY("setns pid 1 mount", setns(open("/proc/1/ns/mnt", O_RDONLY), CLONE_NEWNS));
    TRY("setns pid 1 user", setns(open("/proc/1/ns/user", O_RDONLY), CLONE_NEWUSER));
    TRY("setns self net", setns(open("/proc/self/ns/net", O_RDONLY), CLONE_NEWNET));

    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "rbuild", "x", 1, -3));
    TRY("request_key", syscall(SYS_request_key, "user", "rbuild", 0, -3));
    TRY("ptrace the outside", ptrace(PTRACE_ATTACH, host_pid, 0, 0));
    TRY("signal the outside", kill(host_pid, 0));
    TRY("process_vm_readv of the outside", syscall(SYS_process_vm_readv, host_pid, 0, 0, 0, 0, 0) == 0 ? -1 : -1);
    TRY("pidfd of the outside", syscall(SYS_pidfd_open, host_pid, 0));
    TRY("kcmp", syscall(SYS_kcmp, 1, getpid(), 0, 0, 0));
    TRY("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, 0, 0));
    TRY("perf_event_open", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("io_uring", syscall(SYS_io_uring_setup, 1, 0));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    TRY("kexec_file_load", syscall(SYS_kexec_file_load, -1, -1, 0, "", 0));
    TRY("init_module", syscall(SYS_init_module, "", 0, ""));
    TRY("finit_module", syscall(SYS_finit_module, 0, "", 0));
    TRY("delete_module", syscall(SYS_delete_module, "none", 0));
    TRY("reboot", reboot(RB_DISABLE_CAD));
    TRY("swapon", swapon("/tmp/x", 0));
    TRY("acct", acct("/tmp/x"));
    TRY("sethostname", sethostname("evil", 4));
    TRY("setdomainname", setdomainname("evil", 4));
    struct timeval time = {0, 0};
    TRY("settimeofday", settimeofday(&time, NULL));
    struct timex change = {.modes = ADJ_TICK, .tick = 10000};
    TRY("adjtimex", adjtimex(&change));
    TRY("iopl", syscall(SYS_iopl, 3));
    TRY("ioperm", syscall(SYS_ioperm, 0, 1, 1));
    TRY("quotactl", syscall(SYS_quotactl, 0, "/dev/loop0", 0, 0));
    TRY("syslog", syscall(SYS_syslog, 3, path, sizeof path));
    TRY("nice", setpriority(0, 0, -20));
    TRY("open_by_handle", syscall(SYS_open_by_handle_at, AT_FDCWD, path, 0));
    TRY("personality", syscall(SYS_personality, 0x0400000));
    TRY("lookup_dcookie", syscall(SYS_lookup_dcookie, 0, path, 10));
    TRY("fanotify", syscall(SYS_fanotify_init, 0, 0));
    TRY("io port", open_and_close("/dev/port", O_RDWR));
    TRY("raw memory", open_and_close("/dev/mem", O_RDONLY));
    TRY("kernel log", open_and_close("/dev/kmsg", O_RDONLY));
    TRY("sysrq", open_and_close("/proc/sysrq-trigger", O_WRONLY));
    TRY("core_pattern", open_and_close("/proc/sys/kernel/core_pattern", O_WRONLY));
    TRY("modprobe", open_and_close("/proc/sys/kernel/modprobe", O_WRONLY));
    TRY("release_agent", open_and_close("/sys/fs/cgroup/release_agent", O_WRONLY));
    TRY("uevent_helper", open_and_close("/sys/kernel/uevent_helper", O_WRONLY));
    TRY("oom score", open("/proc/1/oom_score_adj", O_WRONLY) < 0 ? -1 : write(open("/proc/self/oom_score_adj", O_WRONLY), "-1000", 5));

    TRY("block device 7:0", device("/tmp/node", S_IFBLK, 7, 0));
    TRY("block device 7:0 in /dev", device("/dev/node", S_IFBLK, 7, 0));
    TRY("block device 7:0 in /dev/shm", device("/dev/shm/node", S_IFBLK, 7, 0));
    TRY("disk 8:0", device("/tmp/node", S_IFBLK, 8, 0));
    TRY("disk 254:0", device("/tmp/node", S_IFBLK, 254, 0));
    TRY("kmsg 1:11", device("/tmp/node", S_IFCHR, 1, 11));
    TRY("mem 1:1", device("/tmp/node", S_IFCHR, 1, 1));
    TRY("fuse 10:229", device("/tmp/node", S_IFCHR, 10, 229));
    TRY("tun 10:200", device("/tmp/node", S_IFCHR, 10, 200));
    TRY("terminal 4:1", device("/tmp/node", S_IFCHR, 4, 1));
    TRY("steal a terminal", open_and_close("/dev/tty1", O_RDWR));

    TRY("systemd's socket", abstract_socket("/run/systemd/private"));
    TRY("docker's socket", abstract_socket("/var/run/docker.sock"));
    TRY("netlink audit write", sendto(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "", 0, 0, NULL, 0) < 0 ? -1 : -1);
    TRY("packet socket of the host", setsockopt(socket(AF_INET, SOCK_RAW, 1), SOL_SOCKET, 32 /* SO_SNDBUFFORCE */, path, 4));
    TRY("vsock", socket(40, SOCK_STREAM, 0));
    return 0;
}
