//! The threads that sled starts.

/// Runs `open`, in which sled starts its threads. Each of them spins until the last one has been started, and where there are few cores
/// that takes the time of the thread that starts them: some 10 ms of a start of 20. As batch work they don't interrupt it.
/// Afterwards they are threads like others.
#[cfg(target_os = "linux")]
pub(crate) fn uninterrupted<T>(open: impl FnOnce() -> T) -> T {
    // SAFETY: these calls read and set how threads are scheduled; 0 is the calling one.
    let policy = |thread| unsafe { libc::sched_getscheduler(thread) };
    let set = |thread, policy| {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: as above. Where it isn't allowed, nothing changes.
        unsafe { libc::sched_setscheduler(thread, policy, &param) }
    };
    if policy(0) != libc::SCHED_OTHER || set(0, libc::SCHED_BATCH) != 0 {
        return open();
    }
    let opened = open();
    set(0, libc::SCHED_OTHER);
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    for thread in threads.flatten() {
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
        if let Some(id) = id.filter(|id| policy(*id) == libc::SCHED_BATCH) {
            set(id, libc::SCHED_OTHER);
        }
    }
    opened
}

/// Runs `open`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn uninterrupted<T>(open: impl FnOnce() -> T) -> T {
    open()
}
