//! A made-up polkit, which says what a test wants and remembers what it was asked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use tokio::sync::watch;
use zbus::{Connection, OwnedVariant, interface};

use super::{client::soon, rig::Rig};

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Yes,
    No,
    /// A person must authenticate. Where one may be asked, one does.
    Password,
    /// The same, and nobody is there to ask.
    PasswordOfNobody,
    /// The same, and the person does not want to.
    Dismissed,
    /// It knows of no such action.
    Unknown,
    /// Nothing, until it says something else.
    Nothing,
    /// Yes for the VM `web`, and no for others and for what is about no single one.
    YesForWeb,
}

/// What it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub subject: (String, String),
    pub action: String,
    pub details: BTreeMap<String, String>,
    pub interactive: bool,
    pub number: String,
}

#[derive(Debug, Default)]
struct Asked {
    questions: Vec<Question>,
    taken_back: Vec<String>,
    open: usize,
    peak: usize,
}

/// It.
#[derive(Debug, Clone)]
pub struct FakePolkit {
    says: watch::Sender<Says>,
    asked: Arc<Mutex<Asked>>,
    news: watch::Sender<()>,
    connection: Option<Connection>,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.PolicyKit1.Error")]
enum Refusal {
    Failed(String),
}

struct Authority(FakePolkit);

/// Authorised, to be authenticated, details.
type Answer = ((bool, bool, HashMap<String, String>),);

#[interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Authority {
    async fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedVariant>),
        action: String,
        details: BTreeMap<String, String>,
        flags: u32,
        number: String,
    ) -> Result<Answer, Refusal> {
        let name = subject.1.get("name").and_then(|v| String::try_from(v.clone()).ok()).unwrap_or_default();
        let interactive = flags & 1 == 1;
        let web = details.get("vm").is_some_and(|vm| vm == "web");
        let question =
            Question { subject: (subject.0, name), action: action.clone(), details, interactive, number };
        self.0.note(|asked| {
            asked.questions.push(question);
            asked.open += 1;
            asked.peak = asked.peak.max(asked.open);
        });
        let mut says = self.0.says.subscribe();
        let said = *says.wait_for(|s| *s != Says::Nothing).await.expect("it is there as long as the test");
        self.0.note(|asked| asked.open -= 1);
        let answer = |yes, password, details: &[(&str, &str)]| {
            let details = details.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Ok(((yes, password, details),))
        };
        match said {
            Says::Yes => answer(true, false, &[]),
            Says::YesForWeb => answer(web, false, &[]),
            Says::No | Says::Nothing => answer(false, false, &[]),
            Says::Password => answer(interactive, !interactive, &[]),
            Says::PasswordOfNobody => answer(false, true, &[]),
            Says::Dismissed => answer(false, interactive, &[("polkit.dismissed", "true")]),
            Says::Unknown => Err(Refusal::Failed(format!("Action {action} is not registered"))),
        }
    }

    fn cancel_check_authorization(&self, number: String) {
        self.0.note(|asked| asked.taken_back.push(number));
    }
}

impl FakePolkit {
    /// On the rig's bus, with its name.
    pub async fn start(rig: &Rig, says: Says) -> Self {
        let mut polkit = Self {
            says: watch::Sender::new(says),
            asked: Arc::default(),
            news: watch::Sender::new(()),
            connection: None,
        };
        let address = rig.address();
        let builder = zbus::connection::Builder::address(address.as_str())
            .serve_at("/org/freedesktop/PolicyKit1/Authority", Authority(polkit.clone()))
            .name("org.freedesktop.PolicyKit1");
        polkit.connection = Some(soon("polkit", builder.build()).await.unwrap());
        polkit
    }

    /// From now on, for who waits for an answer as well.
    pub fn says(&self, says: Says) {
        self.says.send_replace(says);
    }

    /// What it was asked since the last time.
    pub fn questions(&self) -> Vec<Question> {
        std::mem::take(&mut self.asked.lock().unwrap().questions)
    }

    /// How many questions were open at once, at most.
    pub fn peak(&self) -> usize {
        self.asked.lock().unwrap().peak
    }

    /// Waits until so many questions came that were not taken.
    pub async fn until_asked(&self, count: usize) {
        self.until("questions", |asked| asked.questions.len() >= count).await;
    }

    /// Waits until this question was taken back.
    pub async fn until_taken_back(&self, number: &str) {
        self.until("a question that is taken back", |asked| asked.taken_back.iter().any(|n| n == number))
            .await;
    }

    async fn until(&self, what: &str, so: impl Fn(&Asked) -> bool) {
        let mut news = self.news.subscribe();
        soon(what, async {
            while !so(&self.asked.lock().unwrap()) {
                news.changed().await.unwrap();
            }
        })
        .await;
    }

    fn note(&self, what: impl FnOnce(&mut Asked)) {
        what(&mut self.asked.lock().unwrap());
        self.news.send_replace(());
    }
}
