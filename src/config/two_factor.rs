//! Settings of two-factor authentication.

use clap::{ArgAction, Args, ValueEnum, builder::BoolishValueParser};

/// The users who must use a second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum SecondFactorFor {
    /// A second factor is optional.
    None,
    /// Admins, for admin operations.
    Admins,
    /// All users. Without a second factor, they can only read their account, set up a second factor and log out.
    All,
}

/// Who must use a second factor.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Account settings")]
pub struct SecondFactor {
    /// Who must sign in with a second factor: none, admins (for admin operations) or all. With all, users without a second factor
    /// can only read their account, set up a second factor and log out. The values admins and all need TWO_FACTOR_KEY.
    #[arg(long, env, value_enum, default_value_t = SecondFactorFor::None, value_name = "WHO")]
    pub require_two_factor: SecondFactorFor,
    /// Same as REQUIRE_TWO_FACTOR=admins. If both settings are set, the stricter one applies.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub require_admin_two_factor: bool,
}

impl SecondFactor {
    /// Returns which users must use a second factor: the stricter of both settings.
    pub fn required_for(&self) -> SecondFactorFor {
        match self.require_admin_two_factor {
            true => self.require_two_factor.max(SecondFactorFor::Admins),
            false => self.require_two_factor,
        }
    }

    /// Returns the setting that requires a second factor, for messages. `None` if no setting does.
    pub(super) fn setting(&self) -> Option<&'static str> {
        match (self.require_two_factor, self.require_admin_two_factor) {
            (SecondFactorFor::All, _) => Some("REQUIRE_TWO_FACTOR=all"),
            (SecondFactorFor::Admins, _) => Some("REQUIRE_TWO_FACTOR=admins"),
            (SecondFactorFor::None, true) => Some("REQUIRE_ADMIN_TWO_FACTOR"),
            (SecondFactorFor::None, false) => None,
        }
    }
}
