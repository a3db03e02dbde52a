//! Members of a cluster and their endpoints (spec 04 §2.2).

use thiserror::Error;

/// An invalid member string.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("members '{text}': {reason}; give id,ingress,consensus,log,catchup,archive joined by |")]
pub struct MembersError {
    /// The string.
    pub text: String,
    /// Description of the error.
    pub reason: String,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Member id.
    pub id: i32,
    /// Endpoint for clients.
    pub ingress: String,
    /// Endpoint for other members.
    pub consensus: String,
    /// Endpoint of the log.
    pub log: String,
    /// Endpoint that receives catch-up replays.
    pub catchup: String,
    /// Endpoint of the member's archive.
    pub archive: String,
    /// Endpoint at which the member's archive opens response channels; replication uses it when it is given.
    pub archive_response: Option<String>,
    /// Endpoint at which the member opens response channels for clients. Kept as configured, and not used.
    pub egress_response: Option<String>,
}

impl Member {
    /// Endpoints in the form of the setting `member.endpoints`.
    pub fn endpoints(&self) -> String {
        [&self.ingress, &self.consensus, &self.log, &self.catchup, &self.archive]
            .map(String::as_str)
            .join(",")
    }
}

/// Parses a member string.
///
/// ```
/// let members = harrier_cluster::members::parse("0,h:1,h:2,h:3,h:0,h:8010").unwrap();
/// assert_eq!(members[0].ingress, "h:1");
/// ```
///
/// # Errors
/// Fields that are missing or malformed.
pub fn parse(text: &str) -> Result<Vec<Member>, MembersError> {
    let error = |reason: String| MembersError { text: text.to_owned(), reason };
    let mut members: Vec<Member> = Vec::new();
    for entry in text.split('|') {
        let fields: Vec<&str> = entry.split(',').map(str::trim).collect();
        if !(6..=8).contains(&fields.len()) {
            return Err(error(format!("member '{entry}' has {} fields", fields.len())));
        }
        let id: i32 =
            fields[0].parse().map_err(|_| error(format!("member id '{}' is no number", fields[0])))?;
        if members.iter().any(|member| member.id == id) {
            return Err(error(format!("member id {id} is given twice")));
        }
        if let Some(bad) =
            fields[1..].iter().find(|field| harrier_protocol::uri::Endpoint::parse(field).is_none())
        {
            return Err(error(format!("endpoint '{bad}' is not host:port")));
        }
        members.push(Member {
            id,
            ingress: fields[1].to_owned(),
            consensus: fields[2].to_owned(),
            log: fields[3].to_owned(),
            catchup: fields[4].to_owned(),
            archive: fields[5].to_owned(),
            archive_response: fields.get(6).map(|field| (*field).to_owned()),
            egress_response: fields.get(7).map(|field| (*field).to_owned()),
        });
    }
    Ok(members)
}

/// Writes members in the form of the setting `members`. Members that [`parse`] read keep their text, apart from spaces.
pub fn encode(members: &[Member]) -> String {
    let entry = |member: &Member| {
        let more = [&member.archive_response, &member.egress_response].into_iter().flatten();
        more.fold(format!("{},{}", member.id, member.endpoints()), |text, endpoint| {
            format!("{text},{endpoint}")
        })
    };
    members.iter().map(entry).collect::<Vec<_>>().join("|")
}

/// Endpoint list for clients: `0=host:port,1=…`.
pub fn ingress_endpoints(members: &[Member]) -> String {
    let list: Vec<String> =
        members.iter().map(|member| format!("{}={}", member.id, member.ingress)).collect();
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_strings_say_what_is_wrong() {
        let reason = |text| parse(text).unwrap_err().reason;
        assert!(reason("").contains("1 fields"));
        assert!(reason("x,h:1,h:2,h:3,h:4,h:5").contains("is no number"));
        assert!(reason("0,h,h:2,h:3,h:4,h:5").contains("'h' is not host:port"));
        assert!(reason("0,h:1,h:2,h:3,h:4,h:5|0,h:1,h:2,h:3,h:4,h:5").contains("twice"));
    }

    #[test]
    fn clients_get_the_members_in_order() {
        let members = parse("1,a:1,a:2,a:3,a:4,a:5|0,b:1,b:2,b:3,b:4,b:5,b:6").unwrap();
        assert_eq!(ingress_endpoints(&members), "1=a:1,0=b:1");
    }

    #[test]
    fn response_endpoints_are_kept() {
        let text = "1,a:1,a:2,a:3,a:4,a:5|0,b:1,b:2,b:3,b:4,b:5,b:6|2,c:1,c:2,c:3,c:4,c:5,c:6,c:7";
        let members = parse(text).unwrap();
        let kept = |member: &Member| (member.archive_response.clone(), member.egress_response.clone());
        assert_eq!(kept(&members[0]), (None, None));
        assert_eq!(kept(&members[1]), (Some("b:6".into()), None));
        assert_eq!(kept(&members[2]), (Some("c:6".into()), Some("c:7".into())));
        assert_eq!(encode(&members), text);
    }
}
