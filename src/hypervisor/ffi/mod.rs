//! The only place with `unsafe`: the parts of libvirt's C API that the `virt` crate lacks.
//!
//! * the event loop, on a thread of its own, for ever: without it keepalives go unanswered and no event comes;
//! * a disk's capacity, of which the crate reads what a failed call left uninitialised;
//! * block jobs ([`block`]);
//! * domain events and the close callback, each as a plain Rust closure, and taken off again.
//!
//! Why each block is sound: every pointer handed to libvirt is either a live handle that the caller borrows for
//! the call, or a leaked `Box` that libvirt gives back exactly once through the free function registered with it.
//! Callbacks run on the event thread; a panic in one must not unwind into C, so each is caught.

#![allow(unsafe_code)]

pub(super) mod block;
mod bulk;

use std::{
    ffi::{CStr, CString, c_int, c_void},
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};

pub(super) use self::bulk::Bulk;
use nix::errno::Errno;
use virt::{connect::Connect, domain::Domain, error::Error};

use crate::logging::message;

/// What a domain event says, as far as anybody here asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DomainEvent {
    /// The definition is gone.
    Undefined([u8; 16]),
    /// Anything else about this domain.
    Changed([u8; 16]),
}

type DomainCallback = Box<dyn Fn(DomainEvent) + Send + Sync>;
type CloseCallback = Box<dyn Fn(c_int) + Send + Sync>;

/// Starts the event loop, once per process. Must come before the first connection.
pub(super) fn start_event_loop() -> Result<(), Error> {
    static STARTED: OnceLock<Result<(), Error>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            virt::error::clear_error_callback();
            virt::event::event_register_default_impl()?;
            // Disabled (-1), it costs no wake-up; its being there keeps the loop from ever having nothing to poll.
            // SAFETY: the callback ignores its pointer, which may thus be null.
            let timer =
                unsafe { virt_sys::virEventAddTimeout(-1, Some(no_timer), std::ptr::null_mut(), None) };
            if timer < 0 {
                return Err(Error::last_error());
            }
            let spawned = std::thread::Builder::new().name("libvirt-events".into()).spawn(|| {
                loop {
                    if let Err(e) = virt::event::event_run_default_impl() {
                        tracing::error!(
                            MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                            "libvirt's event loop failed; going on"
                        );
                        // Not a busy loop: poll itself fails only when descriptors are broken, and then slowly.
                        std::thread::yield_now();
                    }
                    bulk::rest();
                }
            });
            if let Err(e) = spawned {
                tracing::error!(
                    MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                    "cannot start the thread of libvirt's event loop"
                );
                return Err(Error::last_error());
            }
            Ok(())
        })
        .clone()
}

/// A disk's size as the guest sees it, in bytes.
pub(super) fn capacity(domain: &Domain, target: &str) -> Result<u64, Error> {
    let target = CString::new(target)?;
    let mut info = virt_sys::virDomainBlockInfo { capacity: 0, allocation: 0, physical: 0 };
    // SAFETY: the domain is alive for the call, and libvirt writes into `info`, if anything.
    let done = unsafe { virt_sys::virDomainGetBlockInfo(domain.as_ptr(), target.as_ptr(), &raw mut info, 0) };
    if done < 0 { Err(Error::last_error()) } else { Ok(info.capacity) }
}

/// Whether a running VM would answer questions at once: nothing else speaks to its QEMU. Never waits.
pub(super) fn answers(domain: &Domain) -> Result<bool, Error> {
    let mut info = virt_sys::virDomainControlInfo { state: 0, details: 0, stateTime: 0 };
    // SAFETY: as above.
    let done = unsafe { virt_sys::virDomainGetControlInfo(domain.as_ptr(), &raw mut info, 0) };
    if done < 0 { Err(Error::last_error()) } else { Ok(info.state == virt_sys::VIR_DOMAIN_CONTROL_OK) }
}

/// What the operating system said to libvirt, if this is the last error that libvirt gave this thread and comes from there.
pub(super) fn errno_of(error: &Error) -> Option<Errno> {
    // SAFETY: libvirt gives null, or its error of this thread, which stays what it is until this thread's next call.
    let last = unsafe { virt_sys::virGetLastError().as_ref() }?;
    if last.message.is_null() || last.code.cast_unsigned() != virt_sys::VIR_ERR_SYSTEM_ERROR {
        return None;
    }
    // SAFETY: as above; a message that is there ends with a zero.
    let text = unsafe { CStr::from_ptr(last.message) };
    (text.to_string_lossy() == error.message()).then(|| Errno::from_raw(last.int1))
}

unsafe extern "C" fn no_timer(_timer: c_int, _opaque: *mut c_void) {}

type GenericCallback = unsafe extern "C" fn(virt_sys::virConnectPtr, virt_sys::virDomainPtr, *mut c_void);

/// A connection with callbacks, which are taken off it when this is dropped: libvirt lets each of them hold the
/// connection, so that a close alone would leave it and its socket open for ever.
#[derive(Debug)]
pub(super) struct Watched {
    connection: Connect,
    events: Vec<c_int>,
    closes: bool,
}

impl Watched {
    pub(super) fn new(connection: Connect) -> Self {
        Self { connection, events: Vec::new(), closes: false }
    }

    /// Calls back for every lifecycle, agent, block job and metadata event of every domain, until the connection is closed.
    pub(super) fn on_domain_events<F>(&mut self, callback: F) -> Result<(), Error>
    where
        F: Fn(DomainEvent) + Send + Sync + Clone + 'static,
    {
        // SAFETY (four times): libvirt calls a callback with the arguments that belong to its event number, as the
        // casts say; all four take (connection, domain, …, opaque) and look at nothing else but what they declare.
        unsafe {
            let lifecycle: unsafe extern "C" fn(_, _, c_int, c_int, *mut c_void) -> c_int =
                lifecycle_callback;
            self.register(
                virt_sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                std::mem::transmute::<
                    unsafe extern "C" fn(
                        virt_sys::virConnectPtr,
                        virt_sys::virDomainPtr,
                        c_int,
                        c_int,
                        *mut c_void,
                    ) -> c_int,
                    GenericCallback,
                >(lifecycle),
                Box::new(callback.clone()),
            )?;
            let agent: unsafe extern "C" fn(_, _, c_int, c_int, *mut c_void) = agent_callback;
            self.register(
                virt_sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
                std::mem::transmute::<
                    unsafe extern "C" fn(
                        virt_sys::virConnectPtr,
                        virt_sys::virDomainPtr,
                        c_int,
                        c_int,
                        *mut c_void,
                    ),
                    GenericCallback,
                >(agent),
                Box::new(callback.clone()),
            )?;
            let block_job: unsafe extern "C" fn(_, _, *const std::ffi::c_char, c_int, c_int, *mut c_void) =
                block_job_callback;
            self.register(
                virt_sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
                std::mem::transmute::<
                    unsafe extern "C" fn(
                        virt_sys::virConnectPtr,
                        virt_sys::virDomainPtr,
                        *const std::ffi::c_char,
                        c_int,
                        c_int,
                        *mut c_void,
                    ),
                    GenericCallback,
                >(block_job),
                Box::new(callback.clone()),
            )?;
            // Tags are metadata: libvirt tells of a new one by this event alone.
            let metadata: unsafe extern "C" fn(_, _, c_int, *const std::ffi::c_char, *mut c_void) =
                metadata_callback;
            self.register(
                virt_sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
                std::mem::transmute::<
                    unsafe extern "C" fn(
                        virt_sys::virConnectPtr,
                        virt_sys::virDomainPtr,
                        c_int,
                        *const std::ffi::c_char,
                        *mut c_void,
                    ),
                    GenericCallback,
                >(metadata),
                Box::new(callback),
            )
        }
    }

    /// # Safety
    /// `callback` must have the signature that libvirt uses for `event`, and take `opaque` as a `*mut DomainCallback`.
    unsafe fn register(
        &mut self,
        event: virt_sys::virDomainEventID,
        callback: GenericCallback,
        closure: DomainCallback,
    ) -> Result<(), Error> {
        // Twice boxed: a `*mut dyn Fn` is two words wide, C's pointer is one.
        let opaque = Box::into_raw(Box::new(closure)).cast::<c_void>();
        let event = c_int::try_from(event).unwrap_or(c_int::MAX);
        // SAFETY: the connection is borrowed for the call; a null domain means all domains; `free_domain` takes back
        // exactly what `opaque` was made of.
        let id = unsafe {
            virt_sys::virConnectDomainEventRegisterAny(
                self.connection.as_ptr(),
                std::ptr::null_mut(),
                event,
                Some(callback),
                opaque,
                Some(free_domain),
            )
        };
        if id < 0 {
            let error = Error::last_error();
            // SAFETY: on failure libvirt does not call the free function; the box is still ours.
            unsafe { free_domain(opaque) };
            return Err(error);
        }
        self.events.push(id);
        Ok(())
    }

    /// Calls back once when the connection is lost, with libvirt's `virConnectCloseReason`.
    pub(super) fn on_close(&mut self, callback: impl Fn(c_int) + Send + Sync + 'static) -> Result<(), Error> {
        let closure: CloseCallback = Box::new(callback);
        let opaque = Box::into_raw(Box::new(closure)).cast::<c_void>();
        // SAFETY: as in `register`.
        let done = unsafe {
            virt_sys::virConnectRegisterCloseCallback(
                self.connection.as_ptr(),
                Some(close_callback),
                opaque,
                Some(free_close),
            )
        };
        if done < 0 {
            let error = Error::last_error();
            // SAFETY: on failure libvirt does not call the free function; the box is still ours.
            unsafe { free_close(opaque) };
            return Err(error);
        }
        self.closes = true;
        Ok(())
    }
}

impl Deref for Watched {
    type Target = Connect;

    fn deref(&self) -> &Connect {
        &self.connection
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for id in self.events.drain(..) {
            // SAFETY: the connection is ours, and the callback one of its own. On a lost connection this is an error,
            // after the callback was taken off; there is nobody to tell.
            unsafe { virt_sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), id) };
        }
        if self.closes {
            // SAFETY: as above.
            unsafe {
                virt_sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), Some(close_callback));
            }
        }
    }
}

unsafe extern "C" fn free_domain(opaque: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `register`, given back once.
    drop(unsafe { Box::from_raw(opaque.cast::<DomainCallback>()) });
}

unsafe extern "C" fn lifecycle_callback(
    _connection: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // VIR_DOMAIN_EVENT_UNDEFINED, but not ..._RENAMED, which is the same VM under another name.
    let undefined = event == 1 && detail != 1;
    // SAFETY: as `deliver` asks.
    unsafe { deliver(domain, opaque, undefined) };
    0
}

unsafe extern "C" fn agent_callback(
    _connection: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    _state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as `deliver` asks.
    unsafe { deliver(domain, opaque, false) };
}

unsafe extern "C" fn block_job_callback(
    _connection: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    _disk: *const std::ffi::c_char,
    _kind: c_int,
    _status: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as `deliver` asks.
    unsafe { deliver(domain, opaque, false) };
}

unsafe extern "C" fn metadata_callback(
    _connection: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    _kind: c_int,
    _namespace: *const std::ffi::c_char,
    opaque: *mut c_void,
) {
    // SAFETY: as `deliver` asks.
    unsafe { deliver(domain, opaque, false) };
}

/// # Safety
/// `domain` must be valid for the time of the call, `opaque` a `*mut DomainCallback` that outlives it.
unsafe fn deliver(domain: virt_sys::virDomainPtr, opaque: *mut c_void, undefined: bool) {
    let mut uuid = [0_u8; 16];
    // SAFETY: libvirt writes VIR_UUID_BUFLEN (16) bytes.
    if unsafe { virt_sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: libvirt keeps `opaque` until the callback is deregistered.
    let callback = unsafe { &*opaque.cast::<DomainCallback>() };
    let event = if undefined { DomainEvent::Undefined(uuid) } else { DomainEvent::Changed(uuid) };
    if catch_unwind(AssertUnwindSafe(|| callback(event))).is_err() {
        tracing::error!(MESSAGE_ID = message::INTERNAL_ERROR, "a libvirt event's handler panicked");
    }
}

unsafe extern "C" fn close_callback(
    _connection: virt_sys::virConnectPtr,
    reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt keeps `opaque` until the callback is unregistered.
    let callback = unsafe { &*opaque.cast::<CloseCallback>() };
    if catch_unwind(AssertUnwindSafe(|| callback(reason))).is_err() {
        tracing::error!(
            MESSAGE_ID = message::INTERNAL_ERROR,
            "the handler of a closed libvirt connection panicked"
        );
    }
}

unsafe extern "C" fn free_close(opaque: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `on_close`, given back once.
    drop(unsafe { Box::from_raw(opaque.cast::<CloseCallback>()) });
}
