//! What a configuration key is, and the table form each section is written in.
//!
//! Everything that speaks of keys comes from these tables: parsing, `tramline config`, the file
//! that `init` writes and the table in the README. A key that is not in one does not exist.

use serde_json::Value as Json;

use super::value::{Raw, Value};

/// Whether SIGHUP takes a changed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// A reload takes it.
    Live,
    /// It needs a restart.
    Restart,
}

impl Reload {
    /// The word for people and for JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart => "restart",
        }
    }
}

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its full name: `section.key`.
    pub name: &'static str,
    /// What kind of value it takes, for people.
    pub kind: &'static str,
    /// Its default in the words of `-O`; empty for none.
    pub default: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Whether a reload takes it.
    pub reload: Reload,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Whether it may be unset.
    pub optional: bool,
    /// The default as JSON; null for none.
    pub default_json: fn() -> Json,
}

impl Key {
    /// The section's name; empty for the keys above the first section.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// The name inside its section.
    pub fn short(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, key)| key)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!(
            "TRAMLINE_{}",
            self.name.replace('.', "__").to_ascii_uppercase()
        )
    }
}

/// A section: its name, what it is about, and its keys.
#[derive(Debug)]
pub struct Section {
    /// Its name; empty for the keys above the first section.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// The default of a key of type `T`, read by the same code that reads everyone's values.
pub(super) fn default_json<T: Value>(word: &str) -> Json {
    if word.is_empty() {
        return Json::Null;
    }
    // The directory is left out: a default path is shown as it would be written.
    T::read(&Raw::Word(word.to_owned()), std::path::Path::new(""))
        .map_or(Json::Null, |value| value.json())
}

/// Declares a section: its struct, its table of keys and its reader, from one list.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $prefix:literal $Section:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $kind:ty = $default:literal, $reload:ident;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        pub struct $Section {
            $(
                $(#[doc = $doc])*
                pub $field: $kind,
            )*
        }

        impl $Section {
            pub(super) const ABOUT: &'static str = concat!($($about, "\n"),*);

            pub(super) const KEYS: &'static [$crate::app::config::key::Key] = &[
                $($crate::app::config::key::Key {
                    name: concat!($prefix, stringify!($field)),
                    kind: <$kind as $crate::app::config::value::Value>::KIND,
                    default: $default,
                    doc: concat!($($doc, "\n"),*),
                    reload: $crate::app::config::key::Reload::$reload,
                    secret: <$kind as $crate::app::config::value::Value>::SECRET,
                    optional: <$kind as $crate::app::config::value::Value>::OPTIONAL,
                    default_json: || $crate::app::config::key::default_json::<$kind>($default),
                },)*
            ];

            pub(super) fn read(
                reader: &mut $crate::app::config::read::Reader<'_>,
            ) -> Option<Self> {
                let mut keys = Self::KEYS.iter();
                $(let $field = reader.take::<$kind>(
                    keys.next().expect("KEYS has one key for each field"),
                );)*
                Some(Self { $($field: $field?,)* })
            }
        }
    };
}
pub(super) use section;
