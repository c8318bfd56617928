//! The tables as Diesel sees them, the same for SQLite and PostgreSQL.

diesel::table! { settings (name) { name -> Text, value -> Text, } }
diesel::table! {
    credentials (hash) { hash -> Text, kind -> Text, name -> Text, created_at -> BigInt, used_at -> Nullable<BigInt>, }
}
diesel::table! {
    sites (id) {
        id -> Text,
        revision -> BigInt,
        config -> Text,
        report_key -> Nullable<Text>,
        sealing_key -> Nullable<Text>,
        chunk_key -> Nullable<Text>,
        online -> Bool,
        last_seen -> Nullable<BigInt>,
        created_at -> BigInt,
        certificate_until -> Nullable<BigInt>,
        revoked_at -> Nullable<BigInt>,
        signing_key -> Nullable<Text>,
        takes_leases -> Bool,
        emergency_code -> Nullable<Text>,
    }
}
diesel::table! {
    signing_keys (id) {
        id -> Text,
        generation -> BigInt,
        public -> Text,
        private -> Nullable<Text>,
        created_at -> BigInt,
        retired_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    edge_certificates (serial) {
        serial -> Text,
        site -> Text,
        issued_at -> BigInt,
        not_after -> BigInt,
        revoked_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    join_tokens (id) { id -> Text, site -> Text, secret -> Text, expires_at -> BigInt, used_at -> Nullable<BigInt>, }
}
diesel::table! {
    machines (id) {
        id -> Text,
        name -> Text,
        site -> Text,
        state -> Text,
        address -> Text,
        details -> Text,
        bmc_password -> Nullable<Text>,
        live_job -> Nullable<Text>,
        version -> BigInt,
        created_at -> BigInt,
        inventory -> Nullable<Text>,
        machine_type -> Nullable<Text>,
        type_pinned -> Bool,
        type_reason -> Nullable<Text>,
        typed_by -> BigInt,
        reason -> Nullable<Text>,
        quarantine -> Bool,
        bmc_candidates -> Nullable<Text>,
        bmc_state -> Nullable<Text>,
        bmc_seen_at -> Nullable<BigInt>,
    }
}
diesel::table! { machine_labels (machine, name) { machine -> Text, name -> Text, value -> Text, } }
diesel::table! { machine_bmcs (machine) { machine -> Text, site -> Text, address -> Text, } }
diesel::table! { machine_words (machine) { machine -> Text, words -> Text, } }
diesel::table! {
    machine_types (name) {
        name -> Text,
        description -> Text,
        priority -> BigInt,
        rules -> Text,
        created_at -> BigInt,
    }
}
diesel::table! {
    reservations (id) {
        id -> Text,
        site -> Text,
        first -> Text,
        last -> Text,
        note -> Text,
        created_at -> BigInt,
    }
}
diesel::table! { macs (mac) { mac -> Text, machine -> Text, } }
diesel::table! {
    images (id) {
        id -> Text,
        name -> Text,
        manifest -> Text,
        created_at -> BigInt,
        family -> Nullable<Text>,
        version -> Nullable<Text>,
        deprecated -> Bool,
        machine_types -> Text,
    }
}
diesel::table! {
    instances (id) {
        id -> Text,
        name -> Text,
        site -> Text,
        machine -> Nullable<Text>,
        image -> Text,
        state -> Text,
        job -> Text,
        wish -> Text,
        created_at -> BigInt,
        project -> Text,
        locked -> Bool,
        machine_type -> Nullable<Text>,
    }
}
diesel::table! {
    jobs (id) {
        id -> Text,
        instance -> Nullable<Text>,
        site -> Text,
        machine -> Nullable<Text>,
        state -> Text,
        failure -> Nullable<Text>,
        deadline -> BigInt,
        created_at -> BigInt,
        finished_at -> Nullable<BigInt>,
        kind -> Text,
        priority -> BigInt,
        waiting -> Nullable<Text>,
    }
}
diesel::table! {
    orders (machine) {
        machine -> Text,
        site -> Text,
        job -> Text,
        revision -> BigInt,
        body -> Text,
        reserved -> BigInt,
    }
}
diesel::table! {
    machine_leases (machine, site) {
        machine -> Text,
        site -> Text,
        revision -> BigInt,
        basis -> Text,
        issued_at -> BigInt,
        until -> BigInt,
        body -> Text,
    }
}
diesel::table! {
    offers (job) {
        job -> Text,
        machine -> Text,
        site -> Text,
        instance -> Text,
        kind -> Text,
        lease -> BigInt,
        revision -> BigInt,
        until -> BigInt,
        body -> Text,
    }
}
diesel::table! { reports (machine) { machine -> Text, site -> Text, job -> Text, revision -> BigInt, body -> Text, } }
diesel::table! { hardware_faults (machine, raw) { machine -> Text, raw -> Text, told_at -> BigInt, } }
diesel::table! { job_reports (job) { job -> Text, revision -> BigInt, body -> Text, } }
diesel::table! { uploads (id) { id -> Text, started_at -> BigInt, touched_at -> BigInt, } }
diesel::table! { edge_runs (site) { site -> Text, state -> Text, } }
diesel::table! {
    revoked_edges (report_key) { report_key -> Text, site -> Text, revoked_at -> BigInt, }
}
diesel::table! { discovered (site, mac) { mac -> Text, site -> Text, seen -> Text, seen_at -> BigInt, } }
diesel::table! {
    idempotency (id) { id -> Text, request -> Text, status -> Integer, body -> Text, created_at -> BigInt, }
}
diesel::table! {
    users (id) {
        id -> Text,
        name -> Text,
        email -> Nullable<Text>,
        password -> Nullable<Text>,
        subject -> Nullable<Text>,
        disabled -> Bool,
        created_at -> BigInt,
    }
}
diesel::table! { roles (name) { name -> Text, permissions -> Text, created_at -> BigInt, } }
diesel::table! {
    grants (id) {
        id -> Text,
        holder -> Text,
        role -> Text,
        scope -> Text,
        created_at -> BigInt,
        source -> Nullable<Text>,
    }
}
diesel::table! { projects (id) { id -> Text, description -> Text, created_at -> BigInt, } }
diesel::table! { quotas (project, machine_type) { project -> Text, machine_type -> Text, machines -> BigInt, } }
diesel::table! {
    sessions (hash) {
        hash -> Text,
        holder -> Text,
        csrf -> Text,
        created_at -> BigInt,
        used_at -> BigInt,
        expires_at -> BigInt,
        address -> Text,
    }
}
diesel::table! {
    api_keys (id) {
        id -> Text,
        hash -> Text,
        holder -> Text,
        name -> Text,
        permissions -> Nullable<Text>,
        created_at -> BigInt,
        expires_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    ssh_keys (id) { id -> Text, holder -> Text, name -> Text, public_key -> Text, created_at -> BigInt, }
}
diesel::table! {
    audit (seq) {
        seq -> BigInt,
        at -> BigInt,
        actor -> Text,
        via -> Text,
        address -> Text,
        action -> Text,
        object -> Text,
        outcome -> Text,
        before -> Nullable<Text>,
        after -> Nullable<Text>,
    }
}
diesel::allow_tables_to_appear_in_same_query!(instances, jobs);
diesel::allow_tables_to_appear_in_same_query!(orders, jobs, reports);
diesel::allow_tables_to_appear_in_same_query!(instances, machines);
diesel::joinable!(grants -> users (holder));
diesel::allow_tables_to_appear_in_same_query!(grants, users);
diesel::table! {
    events (id) {
        id -> BigInt,
        seq -> Nullable<BigInt>,
        at -> BigInt,
        kind -> Text,
        site -> Nullable<Text>,
        machine -> Nullable<Text>,
        instance -> Nullable<Text>,
        job -> Nullable<Text>,
        project -> Nullable<Text>,
        text -> Text,
        data -> Text,
    }
}
diesel::table! { event_counter (id) { id -> BigInt, last -> BigInt, } }
diesel::table! { states (object, id) { object -> Text, id -> Text, state -> Text, since -> BigInt, } }
diesel::table! {
    webhooks (id) {
        id -> Text,
        url -> Text,
        kinds -> Nullable<Text>,
        sites -> Nullable<Text>,
        secret -> Text,
        active -> Bool,
        position -> BigInt,
        lease_holder -> Nullable<Text>,
        lease_until -> BigInt,
        created_at -> BigInt,
        former_secret -> Nullable<Text>,
        former_until -> Nullable<BigInt>,
    }
}
diesel::table! {
    deliveries (id) {
        id -> Text,
        webhook -> Text,
        seq -> BigInt,
        kind -> Text,
        state -> Text,
        attempts -> Integer,
        created_at -> BigInt,
        next_at -> BigInt,
        finished_at -> Nullable<BigInt>,
        status -> Nullable<Integer>,
        error -> Nullable<Text>,
    }
}
diesel::table! {
    alert_rules (id) {
        id -> Text,
        name -> Text,
        condition -> Text,
        webhooks -> Text,
        emails -> Text,
        active -> Bool,
        created_at -> BigInt,
    }
}
diesel::table! {
    alerts (id) {
        id -> Text,
        rule -> Text,
        object -> Text,
        site -> Nullable<Text>,
        text -> Text,
        opened_at -> BigInt,
        resolved_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    mails (id) {
        id -> Text,
        recipient -> Text,
        subject -> Text,
        body -> Text,
        state -> Text,
        attempts -> Integer,
        created_at -> BigInt,
        next_at -> BigInt,
        error -> Nullable<Text>,
    }
}
diesel::table! {
    job_logs (job, begins) { job -> Text, begins -> BigInt, ends -> BigInt, text -> Text, at -> BigInt, }
}
diesel::joinable!(job_logs -> jobs (job));
diesel::table! { traces (job) { job -> Text, parent -> Text, ordered_at -> Nullable<BigInt>, } }
diesel::table! {
    saved_views (holder, name) {
        holder -> Text,
        name -> Text,
        page -> Text,
        query -> Text,
        shown -> Nullable<Text>,
        saved_at -> BigInt,
    }
}
diesel::table! { leases (name) { name -> Text, holder -> Text, until -> BigInt, } }
diesel::allow_tables_to_appear_in_same_query!(machines, states);
diesel::allow_tables_to_appear_in_same_query!(instances, states);
diesel::allow_tables_to_appear_in_same_query!(jobs, states);
diesel::allow_tables_to_appear_in_same_query!(discovered, macs);
diesel::allow_tables_to_appear_in_same_query!(machine_labels, machines);
diesel::allow_tables_to_appear_in_same_query!(machine_bmcs, machines);
diesel::allow_tables_to_appear_in_same_query!(machine_words, machines);
diesel::allow_tables_to_appear_in_same_query!(jobs, machines);
diesel::allow_tables_to_appear_in_same_query!(job_logs, jobs);
