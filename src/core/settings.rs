//! The settings, as the core sees them: values, made by [`config`](crate::config) and by nobody else.
//!
//! This is the one door through which the core looks out of its own folder; behind it are no files, only what was
//! read from them.

pub use crate::config::{
    Daemon, Explanation, MinFree, Settings, VmPlan, check_against, operation_name, room,
};
