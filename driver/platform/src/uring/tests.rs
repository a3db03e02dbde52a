use super::*;

/// Makes the system refuse `io_uring_setup` with an error to the calling thread, as a seccomp profile does.
fn forbid_io_uring(error: i32) {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let program = [
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the filter is read during the call; both calls change the calling thread only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

#[test]
fn a_kernel_that_lacks_or_forbids_it_is_an_error_that_says_what_to_do() {
    for (error, help) in [
        (libc::EPERM, "kernel.io_uring_disabled=0"),
        (libc::ENOSYS, "Linux 6.0"),
        (libc::ENOMEM, "locked memory"),
    ] {
        for kernel_polling in [false, true] {
            let refuse = move || {
                forbid_io_uring(error);
                UringTransport::new(true, kernel_polling).map(|_| ()).unwrap_err().to_string()
            };
            let text = std::thread::scope(|scope| scope.spawn(refuse).join().unwrap());
            assert!(text.starts_with("transport io_uring is not available"), "{text}");
            assert!(text.contains(help) && text.contains("harrier.driver.transport=sockets"), "{text}");
        }
    }
}
