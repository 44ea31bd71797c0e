//! Settings of organizations.

use clap::{ArgAction, Args, builder::BoolishValueParser};

/// Organizations and their limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Organization settings")]
pub struct Organizations {
    #[command(flatten)]
    pub personal: PersonalOrganizations,
    /// Maximum number of organizations that one user owns, without the personal organization. A user with this number cannot
    /// create another, but can receive one by a transfer. With 0, users cannot create organizations.
    #[arg(long, env, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub max_organizations_per_user: u32,
    /// Maximum number of members and pending invitations of one organization. A lower number removes no member.
    #[arg(long, env, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_organization_seats: u32,
}

/// The setting for personal organizations, which some commands read without the others.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Organization settings")]
pub struct PersonalOrganizations {
    /// Whether each user has a personal organization. It is created with the account. Existing accounts get one after the
    /// migrations or by the nightly job.
    #[arg(long, env, default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub personal_organizations: bool,
}
