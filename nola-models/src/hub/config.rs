//! The environment, read once: where the cache lies, which hub is asked, and as whom.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::HubError;

/// The hub that is asked when HF_ENDPOINT is not set.
const HUGGING_FACE: &str = "https://huggingface.co";
/// How long one connection or one read may take, in seconds, when HF_HUB_DOWNLOAD_TIMEOUT is not set.
const TIMEOUT_SECONDS: u64 = 10;
/// A download may be all but still for so many times as long: half a minute where nothing else is set, as curl has it.
const TIMEOUTS_OF_A_WINDOW: u32 = 3;

/// Where the cache lies, which hub is asked, and as whom.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Folder of the cache, laid out as `huggingface_hub` does it.
    pub cache: PathBuf,
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Who asks; `None` asks without a name.
    pub token: Option<Token>,
    /// Whether the network may be used.
    pub network: Network,
    /// How long and how often to try.
    pub patience: Patience,
}

/// Whether the network may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Ask the hub, and fetch what is absent.
    Allowed,
    /// Use the cache alone.
    Forbidden,
}

/// How long and how often to try.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Attempts that may fail in a row.
    pub attempts: u32,
    /// Wait after the first failure; it doubles with each further one.
    pub first_wait: Duration,
    /// The hub may ask for a wait up to this; a longer one is an error at once.
    pub longest_wait: Duration,
    /// Longest silence while connecting or reading, and the longest time for the head of an answer.
    pub timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(300),
            timeout: Duration::from_secs(TIMEOUT_SECONDS),
        }
    }
}

impl Patience {
    /// How long a download may be all but still.
    pub(super) fn window(&self) -> Duration {
        self.timeout.saturating_mul(TIMEOUTS_OF_A_WINDOW)
    }

    /// The wait after the given number of failures in a row, which counts from 1.
    pub(super) fn wait(&self, failures: u32) -> Duration {
        let doubled = self.first_wait.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(self.longest_wait)
    }
}

/// A secret that opens private and gated repositories; it shows itself in no message.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as it is sent; `origin` says in messages where it came from.
    ///
    /// # Errors
    /// If it holds characters that cannot be sent.
    pub fn new(text: &str, origin: &str) -> Result<Self, HubError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HubError::BadToken { origin: origin.to_string() });
        }
        Ok(Self(text.to_string()))
    }

    /// The header that carries it.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubConfig {
    /// Reads HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH (or the token that `hf auth login` stored),
    /// HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE and HF_HUB_DOWNLOAD_TIMEOUT.
    ///
    /// # Errors
    /// If a value means nothing, the token cannot be read or sent, or no home folder is known.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(&Variables { get: &|name| env::var_os(name), home: env::home_dir() })
    }

    fn from_variables(variables: &Variables) -> Result<Self, HubError> {
        let home = variables.hugging_face_home();
        let cache = match variables.path("HF_HUB_CACHE").or_else(|| variables.path("HUGGINGFACE_HUB_CACHE")) {
            Some(cache) => cache,
            None => home.clone().ok_or(HubError::NoHome)?.join("hub"),
        };
        let network = match variables.flag("HF_HUB_OFFLINE") || variables.flag("TRANSFORMERS_OFFLINE") {
            true => Network::Forbidden,
            false => Network::Allowed,
        };
        let patience = Patience { timeout: variables.timeout()?, ..Patience::default() };
        let (endpoint, token) = (variables.endpoint()?, variables.token(home.as_deref())?);
        Ok(Self { cache, endpoint, token, network, patience })
    }
}

/// The environment; a stand-in for it in tests.
struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
}

impl Variables<'_> {
    /// A variable that is set to something.
    fn value(&self, name: &str) -> Option<OsString> {
        (self.get)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// A path; `~` stands for the home folder.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.value(name)?);
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path),
        }
    }

    fn flag(&self, name: &str) -> bool {
        let on = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        self.text(name).is_some_and(on)
    }

    fn hugging_face_home(&self) -> Option<PathBuf> {
        let caches = || self.path("XDG_CACHE_HOME").or_else(|| Some(self.home.as_ref()?.join(".cache")));
        self.path("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
    }

    fn endpoint(&self) -> Result<String, HubError> {
        let Some(text) = self.text("HF_ENDPOINT") else { return Ok(HUGGING_FACE.to_string()) };
        let address = text.trim_end_matches('/');
        let whole = address.parse::<ureq::http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some()
                && uri.query().is_none()
        });
        match whole {
            true => Ok(address.to_string()),
            false => Err(HubError::Setting {
                variable: "HF_ENDPOINT",
                value: text,
                expected: "an address such as https://huggingface.co",
            }),
        }
    }

    fn token(&self, home: Option<&Path>) -> Result<Option<Token>, HubError> {
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(text) = self.text(name) {
                return Token::new(&text, name).map(Some);
            }
        }
        let stored = self.path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
        let Some(file) = stored.filter(|_| !self.flag("HF_HUB_DISABLE_IMPLICIT_TOKEN")) else {
            return Ok(None);
        };
        match std::fs::read_to_string(&file) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Token::new(&text, &file.display().to_string()).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HubError::Io { file, source }),
        }
    }

    fn timeout(&self) -> Result<Duration, HubError> {
        let Some(value) = self.text("HF_HUB_DOWNLOAD_TIMEOUT") else {
            return Ok(Duration::from_secs(TIMEOUT_SECONDS));
        };
        match value.trim().parse::<u32>() {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
            _ => Err(HubError::Setting {
                variable: "HF_HUB_DOWNLOAD_TIMEOUT",
                value,
                expected: "a whole number of seconds from 1",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<HubConfig, HubError> {
        let get = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| OsString::from(pair.1));
        HubConfig::from_variables(&Variables { get: &get, home: Some("/home/ada".into()) })
    }

    #[test]
    fn an_empty_environment_means_the_cache_of_the_user_and_hugging_face() {
        let config = read(&[]).unwrap();
        assert_eq!(config.cache, Path::new("/home/ada/.cache/huggingface/hub"));
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert_eq!((config.token, config.network), (None, Network::Allowed));
    }

    #[test]
    fn the_narrower_variable_decides_where_the_cache_lies() {
        let all = [("XDG_CACHE_HOME", "/xdg"), ("HF_HOME", "~/hf"), ("HF_HUB_CACHE", "/fast/hub")];
        assert_eq!(read(&all[..1]).unwrap().cache, Path::new("/xdg/huggingface/hub"));
        assert_eq!(read(&all[..2]).unwrap().cache, Path::new("/home/ada/hf/hub"));
        assert_eq!(read(&all).unwrap().cache, Path::new("/fast/hub"));
    }

    #[test]
    fn without_a_home_folder_the_cure_is_named() {
        let nowhere = Variables { get: &|_| None, home: None };
        let error = HubConfig::from_variables(&nowhere).unwrap_err();
        assert!(error.to_string().contains("HF_HOME"), "{error}");
    }

    #[test]
    fn a_stored_token_is_read_unless_the_user_forbids_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_stored\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        let token = |pairs: &[(&str, &str)]| read(pairs).unwrap().token.map(|token| token.header());
        assert_eq!(token(&[home]).as_deref(), Some("Bearer hf_stored"));
        assert_eq!(token(&[home, ("HF_TOKEN", "hf_given")]).as_deref(), Some("Bearer hf_given"));
        assert_eq!(token(&[home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let file = folder.path().join("token");
        assert_eq!(token(&[("HF_TOKEN_PATH", file.to_str().unwrap())]).as_deref(), Some("Bearer hf_stored"));
    }

    #[test]
    fn a_token_is_shown_in_no_message() {
        let config = read(&[("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{config:?}").contains("secret"));
        let error = read(&[("HF_TOKEN", "hf secret")]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
        assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    }

    #[test]
    fn offline_has_the_spellings_that_users_know() {
        for value in ["1", "on", "Yes", "TRUE"] {
            assert_eq!(read(&[("HF_HUB_OFFLINE", value)]).unwrap().network, Network::Forbidden);
        }
        for value in ["0", "no", ""] {
            assert_eq!(read(&[("HF_HUB_OFFLINE", value)]).unwrap().network, Network::Allowed);
        }
        assert_eq!(read(&[("TRANSFORMERS_OFFLINE", "1")]).unwrap().network, Network::Forbidden);
    }

    #[test]
    fn an_endpoint_that_is_no_address_is_refused() {
        assert_eq!(
            read(&[("HF_ENDPOINT", "http://mirror:8080/hf/")]).unwrap().endpoint,
            "http://mirror:8080/hf"
        );
        for value in ["mirror", "ftp://mirror", "https://", "http://a b"] {
            let error = read(&[("HF_ENDPOINT", value)]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("HF_ENDPOINT is `{value}`")), "{error}");
        }
    }

    #[test]
    fn a_timeout_that_is_no_number_of_seconds_is_refused() {
        assert_eq!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).unwrap().patience.timeout.as_secs(), 7);
        for value in ["soon", "0", "-1"] {
            assert!(matches!(
                read(&[("HF_HUB_DOWNLOAD_TIMEOUT", value)]),
                Err(HubError::Setting { variable: "HF_HUB_DOWNLOAD_TIMEOUT", .. })
            ));
        }
    }
}
