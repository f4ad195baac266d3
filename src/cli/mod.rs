//! The command-line client: speaks D-Bus only, and knows nothing of libvirt.
//!
//! ```text
//! args ──► run ──► one file per group of verbs ──► render (text for people)
//!                    │            ▲            └──► view   (JSON for scripts)
//!             proxy (methods)     │
//!                    ▼            │
//!                 the bus ──► inventory, props (what there is)
//! ```
//!
//! A verb gets the bus and a [`Console`], writes its answer there and returns its [`Exit`]; why it could not
//! is a [`Failure`], which [`run`] prints together with the next step. Nothing here prints by itself, asks
//! for the time or, but for what `guard` runs, reads the environment, so that all of it can be tested.

mod activation;
mod adopt;
mod agent;
pub mod args;
pub mod ascii;
mod branch;
mod check;
mod complete;
pub mod console;
mod create;
mod delete;
mod detach;
pub mod exit;
mod explain;
mod follow;
mod foresee;
mod guard;
mod help;
pub mod hint;
pub mod inventory;
mod jobs;
mod list;
mod news;
mod pace;
mod pieces;
mod pin;
pub mod place;
mod policies;
mod progress;
mod promote;
pub mod props;
pub mod proxy;
mod prune;
mod rate;
mod reload;
mod remote;
pub mod render;
pub mod reply;
mod restart;
mod revert;
mod run;
mod show;
pub mod simulate;
mod status;
mod suspend;
mod timeline;
mod travel;
mod tree;
pub mod view;
mod wait;
mod watch;
mod when;

use zbus::{
    Connection,
    conn::{AuthMechanism, Builder},
};

use self::{
    agent::Agent,
    args::{Cli, Verb},
    console::Console,
    exit::{Exit, Failure},
    place::Place,
    remote::Manner,
};

/// Where the daemon's bus is.
#[derive(Debug, Clone, Copy)]
enum Way<'a> {
    System,
    Address(&'a str),
    /// Of another machine, and how it is reached.
    Host(&'a str, Manner),
}

/// Does what the command line says, and reports what went wrong. `address` is the environment's idea of where
/// the bus is; the command line's comes first, the system bus last.
pub async fn run(cli: &Cli, address: Option<&str>, console: &mut Console<'_>) -> Exit {
    let global = &cli.global;
    console.place = Place::of(global.host.as_deref());
    // The others die of them with all that they run.
    let steady = matches!(cli.verb, Verb::Guard(_));
    let manner = match cli.verb {
        Verb::Guard(_) => Manner::Steady,
        Verb::Complete(_) => Manner::Silent,
        _ => Manner::Usual,
    };
    let way = match (&global.host, global.bus_address.as_deref().or(address.filter(|_| !global.system))) {
        (Some(host), _) => Way::Host(host, manner),
        (None, Some(address)) => Way::Address(address),
        (None, None) => Way::System,
    };
    // Who is far away is asked there, or not at all.
    let asks = console.interactive && !global.no_ask_password && !matches!(way, Way::Host(..));
    let agent = if asks && cli.verb.changes() { Agent::start(steady).await } else { None };
    let outcome = match dispatch(cli, way, console).await {
        // It says how the command ended, whether or not anybody reads the rest.
        Ok(exit @ (Exit::OfCommand(_) | Exit::NotRolledBack)) => {
            let _ = console.flush();
            Ok(exit)
        }
        Ok(exit) => console.flush().map(|()| exit),
        Err(failure) => Err(failure),
    };
    if let Some(agent) = agent {
        agent.end().await;
    }
    match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            console.failure(&failure);
            failure.exit()
        }
    }
}

async fn dispatch(cli: &Cli, way: Way<'_>, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if let (Some(verb), Way::Host(host, _)) = (cli.verb.without_daemon(), way) {
        return Err(Failure::Usage(format!(
            "--host is nothing for `virtsnap {verb}`, which asks no daemon and works on this machine; {} runs it on {host:?}",
            console.place.command(&format!("virtsnap {verb}"))
        )));
    }
    // What needs no daemon asks for no bus.
    if let Verb::Simulate(args) = &cli.verb {
        return simulate::simulate(args, console);
    }
    if let Verb::Check(args) = &cli.verb {
        return check::check(args, console);
    }
    if let Verb::Completion(args) = &cli.verb {
        return complete::script(args, console);
    }
    if let Verb::Help(args) = &cli.verb {
        return help::help(args, console);
    }
    if let Verb::Complete(args) = &cli.verb {
        return complete::complete(args, way, console).await;
    }
    let bus = connect(way).await?;
    activation::awake(&bus).await?;
    match &cli.verb {
        Verb::List(args) => list::list(args, &bus, console).await,
        Verb::Show(args) => show::show(args, &bus, console).await,
        Verb::Create(args) => create::create(args, &bus, console).await,
        Verb::Delete(args) => delete::delete(args, &bus, console).await,
        Verb::Pin(args) => pin::pin(args, &bus, console).await,
        Verb::Unpin(args) => pin::unpin(args, &bus, console).await,
        Verb::Modify(args) => pin::modify(args, &bus, console).await,
        Verb::Adopt(args) => adopt::adopt(args, &bus, console).await,
        Verb::Revert(args) => revert::revert(args, &bus, console).await,
        Verb::TimeTravel(args) => travel::time_travel(args, &bus, console).await,
        Verb::Guard(args) => guard::guard(args, &bus, console).await,
        Verb::Branch(args) => branch::branch(args, &bus, console).await,
        Verb::Promote(args) => promote::promote(args, &bus, console).await,
        Verb::Run(args) => run::run(args, &bus, console).await,
        Verb::Suspend(args) => suspend::suspend(args, &bus, console).await,
        Verb::Resume(args) => suspend::resume(args, &bus, console).await,
        Verb::Plan(args) if args.policy.is_some() => foresee::plan(args, &bus, console).await,
        Verb::Plan(args) => prune::plan(args, &bus, console).await,
        Verb::Prune(args) => prune::prune(args, &bus, console).await,
        Verb::Status => status::status(&bus, console).await,
        Verb::Policies => policies::policies(&bus, console).await,
        Verb::Watch(args) => watch::watch(args, &bus, console).await,
        Verb::Jobs => jobs::jobs(&bus, console).await,
        Verb::Wait(args) => wait::wait(args, &bus, console).await,
        Verb::Cancel(args) => jobs::cancel(args, &bus, console).await,
        Verb::Reload => reload::reload(&bus, console).await,
        Verb::Explain(args) => explain::explain(args, &bus, console).await,
        Verb::Simulate(args) => simulate::simulate(args, console),
        Verb::Check(args) => check::check(args, console),
        Verb::Completion(args) => complete::script(args, console),
        Verb::Help(args) => help::help(args, console),
        Verb::Complete(args) => complete::complete(args, way, console).await,
    }
}

async fn connect(way: Way<'_>) -> Result<Connection, Failure> {
    let bus = match way {
        Way::System => Builder::system(),
        Way::Address(address) => Builder::address(address),
        // The bridge is whom ssh has let in, whoever that is here.
        Way::Host(host, manner) => {
            Builder::address(remote::address(host, manner)?).auth_mechanism(AuthMechanism::Anonymous)
        }
    };
    // Whatever stops us here, it is the way to the bus.
    bus.build().await.map_err(|error| {
        let why = match error.into() {
            Failure::NoBus(why) => why,
            other => other.to_string(),
        };
        match way {
            Way::Host(host, _) => Failure::NoHost { host: host.to_owned(), why },
            _ => Failure::NoBus(why),
        }
    })
}
