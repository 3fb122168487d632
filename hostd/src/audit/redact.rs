//! Redaction of secrets.

use serde_json::Value;

/// The text that replaces a secret.
pub const REDACTED: &str = "***";

/// Names of the members whose value is a secret, or, if the value is a map, whose values are.
const SECRETS: [&str; 10] = [
    "runhookpayload",
    "environmentvariables",
    "authtoken",
    "accesstoken",
    "sessiontoken",
    "securitytoken",
    "secret",
    "secretkey",
    "secretaccesskey",
    "password",
];
/// Greatest depth of nesting that is searched; what is nested deeper is replaced as a whole. No message of the API has
/// six levels.
const DEEPEST: usize = 32;

/// Replaces the secrets in a message in JSON: payloads of hooks, values of environment variables (their names are
/// kept), tokens of endpoints. Members are recognised by their names, in AWS's spelling (`runHookPayload`) or the
/// proto's (`run_hook_payload`).
pub fn redact(message: &mut Value) {
    redact_value(message, 0);
}

fn redact_value(value: &mut Value, depth: usize) {
    if depth > DEEPEST {
        *value = REDACTED.into();
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if is_secret(name) { hide(member, depth) } else { redact_value(member, depth + 1) }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| redact_value(element, depth + 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_secret(name: &str) -> bool {
    let plain = name.chars().filter(|character| *character != '_').flat_map(char::to_lowercase);
    let plain: String = plain.take(64).collect();
    SECRETS.contains(&plain.as_str())
}

/// Redacts the value of a secret member. The names in a map are kept, and nothing else.
fn hide(value: &mut Value, depth: usize) {
    match value {
        Value::Object(members) if depth <= DEEPEST => {
            members.values_mut().for_each(|member| hide(member, depth + 1));
        }
        Value::Null => {}
        _ => *value = REDACTED.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_replaced_and_the_rest_stays() {
        let mut message = json!({
            "imageIdentifier": "web",
            "clientToken": "a-client-token",
            "runHookPayload": "the payload",
            "logging": {"cloudWatch": {"logGroup": "/g"}},
            "environmentVariables": {"DATABASE": "postgres://user:word@host"},
            "environment_variables": {"NAME": ["a", {"b": "c"}]},
            "authToken": {"X-aws-proxy-auth": "eyJ"},
            "items": [{"run_hook_payload": "another"}, {"RunHookPayload": null}],
        });
        redact(&mut message);
        let expected = json!({
            "imageIdentifier": "web",
            "clientToken": "a-client-token",
            "runHookPayload": "***",
            "logging": {"cloudWatch": {"logGroup": "/g"}},
            "environmentVariables": {"DATABASE": "***"},
            "environment_variables": {"NAME": "***"},
            "authToken": {"X-aws-proxy-auth": "***"},
            "items": [{"run_hook_payload": "***"}, {"RunHookPayload": null}],
        });
        assert_eq!(message, expected);
    }

    /// JSON of any shape, with member names that are not those of secrets. Strings of secrets are "S", all others
    /// "open".
    fn any_json(secret: bool) -> BoxedStrategy<Value> {
        let leaf = if secret { Just(json!("S")).boxed() } else { Just(json!("open")).boxed() };
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let names = prop::sample::select(vec!["a", "b", "items"]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map(names, inner, 0..3)
                    .prop_map(|members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
        .boxed()
    }

    proptest! {
        #[test]
        fn no_string_below_a_secret_member_stays_and_every_other_one_does(
            open in any_json(false),
            secret in any_json(true),
            name in prop::sample::select(vec!["runHookPayload", "environment_variables", "AuthToken"]),
            depth in 0..10usize,
        ) {
            let strings = |value: &Value| value.to_string().matches("\"open\"").count();
            let before = strings(&open);
            let mut message = json!({ name: secret, "other": open });
            for _ in 0..depth {
                message = json!({"inner": [message]});
            }
            redact(&mut message);
            prop_assert!(!message.to_string().contains("\"S\""), "{message}");
            prop_assert_eq!(strings(&message), before);
            let once = message.clone();
            redact(&mut message);
            prop_assert_eq!(once, message);
        }
    }

    #[test]
    fn what_lies_too_deep_is_left_out() {
        let mut message = json!("deep");
        for _ in 0..100 {
            message = json!([message]);
        }
        redact(&mut message);
        assert!(!message.to_string().contains("deep"));
    }
}
