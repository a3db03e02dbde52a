//! Names and durations that are refused before anything is sent (spec 05 L6).

use thiserror::Error;

use crate::codec::MAX_NAME_LENGTH;

/// Fault of an input, by spec 05 L6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{field} {rule}")]
pub struct InvalidInput {
    /// Name of the field.
    pub field: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// Checks a name: 1 to 128 bytes without white space and control characters.
///
/// # Errors
///
/// The rule that the name breaks.
pub fn check_name(field: &'static str, name: &str) -> Result<(), InvalidInput> {
    let rule = if name.is_empty() {
        "must not be empty"
    } else if name.len() > MAX_NAME_LENGTH {
        "must not be longer than 128 bytes"
    } else if name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    } else if name.chars().any(char::is_whitespace) {
        "must not contain white space"
    } else if name.chars().any(char::is_control) {
        "must not contain control characters"
    } else {
        return Ok(());
    };
    Err(InvalidInput { field, rule })
}

/// Returns the application of a unit: its name up to its last `/` (spec 05 L12).
///
/// # Errors
///
/// The unit's name has another form.
pub fn application_of(unit: &str) -> Result<&str, InvalidInput> {
    check_name("unit", unit)?;
    match unit.rsplit_once('/') {
        Some((application, ordinal)) if !application.is_empty() && !ordinal.is_empty() => Ok(application),
        _ => Err(InvalidInput { field: "unit", rule: "must be named application/ordinal" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_visible() {
        for good in ["a", "db", "db/0", "größe", &"x".repeat(128)] {
            assert_eq!(check_name("unit", good), Ok(()), "{good}");
        }
        for (bad, rule) in [
            ("", "must not be empty"),
            ("a b", "must not contain white space"),
            ("a\u{a0}b", "must not contain white space"),
            ("a\tb", "must not contain white space"),
            ("a\u{7}b", "must not contain control characters"),
            ("a\u{9b}b", "must not contain control characters"),
            (&"x".repeat(129), "must not be longer than 128 bytes"),
            (&"é".repeat(65), "must not be longer than 128 bytes"),
        ] {
            let error = check_name("unit", bad).unwrap_err();
            assert_eq!((error.field, error.rule), ("unit", rule), "{bad:?}");
        }
    }

    #[test]
    fn a_unit_names_its_application() {
        assert_eq!(application_of("db/0"), Ok("db"));
        assert_eq!(application_of("eu/db/12"), Ok("eu/db"));
        for bad in ["db", "/0", "db/", ""] {
            assert!(application_of(bad).is_err(), "{bad}");
        }
    }
}
