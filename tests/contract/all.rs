//! All contracts, by groups, and what each needs.

/// Makes tests of all contracts for the rig that this expression makes: one of each, or, where a rig takes long to
/// make, one of each group, which holds them one after the other on one rig (`by group`).
///
/// In brackets behind a group or a contract is what it needs.
macro_rules! contracts {
    ($rig:expr, cannot: [$($cannot:ident),*]) => {
        $crate::contract::contracts! { @declared $rig; $($cannot),* }
        $crate::contract::contracts! { @list each $rig }
    };
    (by group $rig:expr, cannot: [$($cannot:ident),*]) => {
        $crate::contract::contracts! { @declared $rig; $($cannot),* }
        $crate::contract::contracts! { @list by_group $rig }
    };
    (@declared $rig:expr; $($cannot:ident),*) => {
        #[test]
        fn what_this_driver_cannot_do_is_declared() {
            $crate::contract::declared(&$rig, &[$($crate::contract::Capability::$cannot),*]);
        }
    };
    (@list $how:ident $rig:expr) => {
        $crate::contract::contracts! { @$how $rig;
            create [Images] {
                a_snapshot_has_metadata_a_parent_and_is_the_current_one [];
                a_snapshot_of_two_disks_has_both_on_the_overlays_given [];
                a_disk_that_takes_no_part_is_left_alone [];
                state_images_hold_what_the_disks_were [Agent];
                prepare_makes_all_overlays_or_none [];
                prepare_refuses_a_file_that_is_there [];
                prepare_refuses_a_backing_image_that_is_not_the_active_layer [];
                discard_removes_what_nobody_uses_and_passes_over_what_is_missing [];
                discard_refuses_what_a_chain_has [];
                nothing_is_discarded_of_a_vm_that_is_not_there [];
                a_name_that_is_taken_changes_nothing [];
                an_overlay_that_others_overtook_is_refused [Foreign];
                a_foreign_snapshot_is_listed_and_current [Foreign];
            }
            delete [Images] {
                the_oldest_goes_and_the_others_keep_their_data [];
                the_middle_one_goes_and_the_others_keep_their_data [];
                the_newest_goes_and_the_others_keep_their_data [];
                when_all_are_gone_the_disk_is_one_image_again [];
                a_snapshot_that_is_not_there_is_not_found [];
                a_chain_that_is_not_what_the_metadata_says_is_left_alone [Mismatch];
                where_branches_meet_nothing_is_merged [Branches];
                a_stopped_vm_is_snapshotted_and_merged_and_stays_stopped [Agent];
                a_deletion_that_failed_midway_is_marked_and_done_again [MergeTrouble];
            }
            broken [Images] {
                a_mark_that_libvirt_left_goes_with_our_own_merge [MergeTrouble];
                a_deletion_that_broke_off_between_two_disks_is_ended_wherever_it_was [];
                where_all_disks_have_left_it_the_metadata_follows [];
                of_a_vm_that_was_stopped_since_it_is_ended_as_well [];
                an_overlay_that_is_still_there_proves_nothing [];
                what_libvirt_left_of_a_stopped_vm_is_ended_first [Disconnect];
                of_a_running_vm_it_is_ended_too [Disconnect];
                of_a_running_vm_s_only_snapshot_as_well [Disconnect];
                what_others_may_want_is_left_to_them_and_the_way_out_is_told [Disconnect];
            }
            metadata [] {
                redefining_keeps_name_time_parent_current_and_description [Images];
                an_image_is_replaced_in_both_definitions [Images];
                no_backing_chain_is_left_in_metadata [Images];
                revert_disks_are_kept_set_and_dropped [Images, RevertDisks];
                forgetting_reparents_and_keeps_files [Images];
                forgetting_a_child_of_a_reverted_one_keeps_the_invariant [Images, Branches];
                what_was_put_back_is_as_it_was [Images, Disconnect];
                without_a_current_one_nothing_is_changed [Images];
                strange_names_and_descriptions_survive_a_change_and_a_restart [Images, Disconnect];
                what_others_made_is_told_changed_and_deleted_as_one_tree [Foreign];
            }
            merge [Images] {
                an_inner_commit_takes_its_images_out_and_keeps_the_files [];
                an_active_commit_pivots_and_the_definition_follows [];
                a_second_commit_of_the_same_finds_it_done [];
                a_limited_commit_tells_its_progress_and_can_be_hastened [];
                a_stopped_commit_leaves_the_disk_right_and_is_done_later [];
                a_commit_stopped_when_it_is_ready_leaves_the_disk_on_its_overlay [];
                a_commit_stopped_before_it_begins_touches_nothing [];
                a_commit_of_an_unknown_image_touches_nothing [];
                a_stopped_vm_merges_nothing [];
                a_block_job_of_others_is_seen_and_nothing_is_merged_meanwhile [Foreign];
                a_base_that_cannot_be_written_is_left_as_it_was [MergeTrouble];
            }
            run [Images] {
                a_run_of_the_oldest_goes_in_one_pass [];
                a_run_in_the_middle_goes_in_one_pass [];
                a_run_of_the_newest_goes_in_one_pass [];
                a_run_of_all_goes_in_one_pass [];
                what_stays_can_be_reverted_to_also_after_a_restart [Disconnect, Branches];
                snapshots_of_some_disks_are_merged_between_each_other [];
                a_stopped_vm_is_woken_and_sleeps_again [];
                a_woken_vm_that_somebody_let_go_on_is_theirs_and_its_merge_is_told [];
                a_merge_that_was_stopped_is_finished_later [];
                a_merge_that_was_stopped_is_not_ended_on_other_images [Branches];
                a_snapshot_taken_meanwhile_is_told_as_well [];
                what_forbids_a_merge_is_said_before_anything_is_touched [Foreign, Branches];
            }
            cut_short [Images] {
                it_is_not_ended_into_what_another_vm_has_by_now [];
                a_definition_that_lags_behind_it_is_put_right [];
                a_branch_waits_for_what_it_lies_on_and_nothing_else [];
                it_waits_for_a_managed_save_to_be_used [];
                a_revert_ends_it_first [];
            }
            memory [Images] {
                memory_is_kept_in_a_file_that_counts [];
                a_file_that_is_there_is_not_written_over [];
                a_vm_that_cannot_migrate_falls_back_on_the_same_overlays [];
                a_vm_that_cannot_migrate_is_refused_where_required [];
                a_vm_that_is_off_has_no_memory_to_keep [];
                all_disks_take_part_where_the_memory_is_kept [];
                a_paused_vm_s_memory_is_kept_and_merges_wait_for_its_cpus [];
                the_memory_file_goes_with_it [Branches];
                memory_resumes_where_it_was [];
                memory_that_is_lost_is_refused_before_anything_is_touched [];
                memory_that_does_not_load_leaves_the_vm_as_it_was [];
            }
            revert [Images] {
                after_a_revert_to_one_with_children_snapshots_are_taken_and_merged [Branches];
                a_revert_brings_the_data_back_wherever_the_snapshot_is [];
                a_revert_can_be_reverted_and_that_too [];
                after_a_revert_the_vm_is_what_was_asked_for [];
                disks_that_take_no_part_and_cdroms_are_left_alone [];
                the_definition_is_that_of_then_or_that_of_now_as_asked [];
                after_reverts_all_else_works_also_when_libvirt_was_away [Disconnect];
                without_a_safety_snapshot_what_was_on_top_is_gone [];
                a_revert_that_cannot_be_safe_is_refused_and_touches_nothing [];
                a_revert_whose_start_fails_leaves_the_vm_as_it_was [];
                a_tree_of_reverts_and_deletions_keeps_all_data [];
            }
            adopt [Images] {
                a_snapshot_of_others_is_taken_over_and_nothing_else_changes [Foreign];
                what_others_made_is_deleted_when_it_is_ours_or_asked_for [Foreign];
                what_cannot_be_taken_over_is_refused_with_all_that_is_asked_with_it [Foreign, Mismatch];
                metadata_without_images_is_forgotten_on_request_alone [Foreign, Mismatch];
                what_others_need_is_not_forgotten [Foreign];
            }
            opened [Images] {
                what_a_running_vm_has_open_is_what_libvirt_says_too [];
                the_next_start_is_on_what_was_named_for_it_and_this_life_goes_on [];
                a_disk_that_is_not_there_cannot_be_named [];
            }
            orphans [Images] {
                a_file_that_nobody_has_is_found_and_nothing_else [Branches];
                what_lies_on_images_of_several_is_nobody_s_to_tell [];
                what_was_in_quarantine_for_a_week_is_removed [];
                what_somebody_has_again_is_out_of_quarantine [];
                what_is_being_made_is_left_alone [];
                what_only_a_snapshot_names_goes_with_it [Branches];
                what_only_a_snapshot_lies_on_goes_with_it [];
                what_the_vm_lies_on_goes_when_it_leaves_that [];
                what_others_put_the_vm_on_again_stays [Branches];
            }
            branch [Images] {
                a_branch_holds_the_snapshot_s_data_and_pins_it [];
                writes_in_either_are_not_seen_in_the_other [];
                a_branch_of_a_stopped_vm [];
                a_taken_name_is_refused [];
                what_a_branch_cannot_have_is_refused_or_left_out [];
                firmware_variables_are_its_own [];
                a_branch_that_went_unpins [];
            }
            promote [Images] {
                a_promoted_branch_no_longer_pins_and_keeps_its_data [];
                a_stopped_branch_is_woken_to_be_promoted_and_sleeps_again [];
                a_cancelled_promotion_loses_nothing [];
                a_branch_with_snapshots_is_not_promoted [];
                a_disk_whose_qemu_was_killed_before_it_wrote_all_is_copied_again [];
            }
            internal [Images] {
                one_inside_is_deleted_on_request_from_all_disks [];
                a_managed_save_outlives_what_would_start_the_vm [];
                one_inside_is_reverted_to_and_that_can_be_reverted [];
                without_a_current_one_those_inside_are_deleted_and_reverted_to [Foreign];
                inside_and_outside_are_never_mixed [Foreign];
                what_libvirt_forgot_inside_images_is_found_and_not_destroyed [Foreign];
            }
            layers [Images] {
                layers_on_top_of_snapshots_become_snapshots_that_hold_what_they_should [Foreign];
                they_are_merged_away_like_others_also_when_libvirt_was_away [Foreign, Disconnect];
                without_snapshots_all_but_the_base_is_one_unless_it_is_a_clone [];
                what_is_left_under_a_disk_when_all_are_gone_is_told [Foreign, Branches];
                where_it_is_not_proven_none_becomes_one [Foreign];
            }
            agent [] {
                what_is_frozen_is_counted_reported_and_thawed [Agent];
                thawing_what_is_not_frozen_is_harmless [Agent];
                a_second_freeze_fails_and_the_first_stays [Agent];
                some_mount_points_can_be_frozen_alone [Agent];
                a_snapshot_taken_while_frozen_holds_what_was_written [Agent];
                the_guest_names_its_file_systems_and_their_disks [Agent];
                the_guest_says_what_it_runs_while_it_is_not_frozen [Agent];
                windows_lets_go_and_the_thaw_says_so_and_proves_it [Agent, Windows];
                a_vm_without_an_agent_has_none_available [Agent];
                a_stopped_vm_has_no_agent_available [Agent];
                a_failing_hook_fails_the_freeze_and_nothing_is_frozen [Agent, AgentTrouble];
                a_stuck_agent_costs_the_time_limit_at_most_and_thaws_after [Agent, AgentTrouble];
                an_agent_that_went_is_unavailable_and_its_return_is_told [Agent, AgentTrouble];
            }
            host [] {
                a_vm_that_is_not_there_is_not_found [];
                vms_are_described_as_they_are [];
                the_room_for_images_is_known [Images];
                a_glance_changes_with_what_others_do_to_snapshots [Foreign];
                what_happens_is_told_beginning_with_the_connection [];
                a_lost_connection_is_told_and_comes_back [Disconnect];
            }
            fitness [Images] {
                a_running_block_job_refuses_before_anything_is_made [];
                a_definition_that_names_another_image_refuses [];
                a_chain_at_the_limit_takes_no_more [];
                metadata_near_a_mebibyte_is_refused_and_what_is_taken_is_found_again [Disconnect];
                prepared_overlays_are_what_was_asked_for [];
                eight_disks_go_together [];
                a_raw_disk_becomes_the_base_of_a_chain [];
                a_raw_disk_of_a_snapshot_on_another_branch_is_in_no_merge_s_way [];
                a_paused_vm_is_snapshotted_and_stays_paused [];
                strange_names_and_paths_are_taken_as_they_are [];
            }
            kinds [Images] {
                firmware_variables_are_put_back_by_a_revert [];
                a_tpm_s_state_is_put_back_by_a_revert [];
                a_raw_base_of_a_strange_name_is_merged_into_and_reverted_to [];
                a_vm_that_is_backed_up_or_saved_or_transient_is_left_alone [];
            }
            native [Images, Disconnect] {
                what_a_merge_left_is_deleted_natively_after_a_restart [];
                what_a_merge_left_is_reverted_to_natively_after_a_restart [NativeRevert];
            }
            images [Images] {
                the_definition_names_what_the_vm_runs_on [];
                a_running_block_job_is_told [];
                a_merge_into_what_another_vm_s_chain_has_is_refused [];
                a_merge_into_what_another_vm_s_snapshot_has_is_refused [];
                a_merge_into_what_an_image_of_nobody_lies_on_is_refused [];
                a_vm_whose_image_cannot_be_found_lets_nothing_be_merged [];
                a_vm_whose_overlay_is_gone_is_in_the_way_of_what_it_lay_on_alone [];
                a_chain_that_cannot_be_followed_is_an_error [];
                in_a_directory_that_is_not_there_are_no_images [];
                small_files_are_read_and_written_whole [];
            }
        }
    };
    (@each $rig:expr; $($group:ident $all:tt { $($name:ident $own:tt;)+ })+) => {
        $($(
            #[test]
            fn $name() {
                let needs: $crate::contract::Needs = [$crate::contract::needs!($all), $crate::contract::needs!($own)];
                $crate::contract::hold(&mut $rig, stringify!($name), needs, $crate::contract::$group::$name);
            }
        )+)+
    };
    (@by_group $rig:expr; $($group:ident $all:tt { $($name:ident $own:tt;)+ })+) => {
        $(
            #[test]
            fn $group() {
                let contracts: &[$crate::contract::Contract] = &[$((
                    stringify!($name),
                    [$crate::contract::needs!($all), $crate::contract::needs!($own)],
                    $crate::contract::$group::$name,
                )),+];
                $crate::contract::hold_all(&mut $rig, contracts);
            }
        )+
    };
}

/// Capabilities by their names.
macro_rules! needs {
    ([$($need:ident),*]) => {
        &[$($crate::contract::Capability::$need),*]
    };
}

pub(crate) use {contracts, needs};
