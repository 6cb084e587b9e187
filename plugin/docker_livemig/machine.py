"""What two machines must have in common for a process to go on."""

from __future__ import annotations

from docker_livemig.requests import Hello
from livemig import vdso, xstate
from livemig.errors import MachineMismatch
from livemig.system.xsave import Component

# Flags of /proc/cpuinfo that say nothing about instructions a program may use, after
# arch/x86/include/asm/cpufeatures.h of Linux 6.12. A kernel names some of them and another does
# not, on the same CPU: those must not be in the way between two versions.
_LINUX_NAMES = """
    constant_tsc up art arch_perfmon pebs bts rep_good amd_lbr_v2 acc_power nopl xtopology
    tsc_reliable nonstop_tsc cpuid extd_apicid amd_dcm aperfmperf rapl nonstop_tsc_s3 tsc_known_freq
    cpuid_fault cpb epb cat_l3 cat_l2 cdp_l3 cdp_l2 invpcid_single hw_pstate
    proc_feedback pti intel_ppin ssbd mba perfmon_v2 ibrs ibpb stibp ibrs_enhanced ibpb_exit_to_user
    cqm_llc cqm_occup_llc cqm_mbm_total cqm_mbm_local split_lock_detect amd_lbr_pmc_freeze
    user_shstk
"""  # words 3, 7, 11, 21; a program that has a shadow stack is refused for itself
_FOR_VIRTUAL_MACHINES = """
    hypervisor vmx svm tpr_shadow vnmi flexpriority ept vpid vmmcall ept_ad tdx_guest
    tdx_host_platform npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists
    pausefilter pfthreshold avic v_vmsave_vmload vgif x2avic v_spec_ctrl virt_ssbd
    sme sev sev_es sev_snp debug_swap svsm
"""
_FOR_THE_KERNEL = """
    vme de pse msr pae mce apic mtrr pge mca pat pse36 pn dts acpi ss ht tm pbe mp nx pdpe1gb
    dtes64 monitor ds_cpl smx est tm2 cid sdbg xtpr pdcm pcid dca x2apic tsc_deadline_timer
    cmp_legacy extapic cr8_legacy osvw ibs skinit wdt tce nodeid_msr topoext perfctr_core perfctr_nb
    bpext ptsc perfctr_llc tsc_adjust smep invpcid cqm rdt_a smap intel_pt umip tme la57
    bus_lock_detect sgx_lc ibt fred irperf wbnoinvd amd_ppin cppc brs xsaves xsaveerptr
    dtherm ida arat pln pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req hfi
    overflow_recov succor smca md_clear pconfig arch_lbr flush_l1d arch_capabilities
"""
_NOT_INSTRUCTIONS = {
    *_LINUX_NAMES.split(),
    *_FOR_VIRTUAL_MACHINES.split(),
    *_FOR_THE_KERNEL.split(),
}


def check_machine(source: Hello, target: Hello) -> None:
    """Raise MachineMismatch, naming it, for what the target's machine lacks."""
    for name in ("arch", "page_size"):
        here, there = getattr(source, name), getattr(target, name)
        if here != there:
            raise MachineMismatch(f"{target.host}: {name} is {there}, {source.host} has {here}")
    missing = sorted(set(source.cpu_flags) - set(target.cpu_flags) - _NOT_INSTRUCTIONS)
    if missing:
        raise MachineMismatch(
            f"{target.host}: its CPU lacks {', '.join(missing)}, which {source.host} has",
            hint="a program that has seen these features may use them at any time",
        )
    _check_extended_state(source, target)


def _check_extended_state(source: Hello, target: Hello) -> None:
    """Refuse a CPU that could not take the registers of the other, nor its signal frames."""
    there, here = ([Component(*each) for each in host.xstate] for host in (source, target))
    if there and here and (what := xstate.mismatch(there, here)):
        raise MachineMismatch(
            f"{target.host}: its CPU {what} like that of {source.host}",
            hint="processors of the same make keep their registers alike",
        )


def has_foreign_vdso(image: bytes) -> bool:
    """Tell whether this kernel's vDSO is another than ``image``, the source's.

    Raises MachineMismatch, naming it, for a function that would be missing here, and ProtocolError
    where it is no vDSO.
    """
    own = vdso.own().code
    if image != own:
        vdso.lead(image, vdso.entries(own))
    return image != own
