//! `Debug` output of messages that hold secrets: it shows the fields that identify a message, and omits payloads,
//! environment values and tokens.

use std::fmt;

use crate::microvms::v1 as api;
use crate::store::v1 as store;

macro_rules! shown {
    ($($message:ty { $($field:ident),* })*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = stringify!($message).rsplit("::").next().unwrap_or_default().trim();
                f.debug_struct(name)$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    )*};
}

shown! {
    store::MicrovmRecord { account, microvm, phase, wish, suspends, build_id }
    store::ClientTokenRecord { expires_at, image_uid }
    api::RunMicrovmRequest { image_identifier, image_version, execution_role_arn }
    api::CreateMicrovmImageRequest { name, base_image_arn, base_image_version, code_artifact }
    api::UpdateMicrovmImageRequest { image_identifier, base_image_arn, base_image_version, code_artifact }
    api::MicrovmImageDetails { image_arn, image_version, state }
    api::MicrovmImageVersion { image_arn, image_version, state, status }
    api::CreateMicrovmAuthTokenResponse {}
    api::CreateMicrovmShellAuthTokenResponse {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret = || "top secret".to_owned();
        let shown = [
            format!("{:?}", store::MicrovmRecord { run_hook_payload: secret(), ..Default::default() }),
            format!(
                "{:?}",
                api::RunMicrovmRequest { run_hook_payload: Some(secret()), ..Default::default() }
            ),
            format!(
                "{:?}",
                api::MicrovmImageVersion {
                    environment_variables: [("NAME".to_owned(), secret())].into(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                api::CreateMicrovmAuthTokenResponse { auth_token: [("X".to_owned(), secret())].into() }
            ),
        ];
        for text in shown {
            assert!(!text.contains("secret\"") && !text.contains("top"), "{text}");
        }
    }
}
