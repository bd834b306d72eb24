// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// This file declares the reasons of conditions and Events. hack/reasons turns
// each comment into a row of docs/troubleshooting.md: the text after "means
// that" is the meaning, the text after "Remedy:" is what the user can do. A
// reason without a remedy is part of normal operation. The directive
// reasons:table names the table of the reasons that have one.

// Reasons for an invalid spec.
//
//reasons:table spec
const (
	// ReasonInvalid means that a field is invalid by itself or in combination
	// with others.
	// Remedy: correct the field that the message names.
	ReasonInvalid = "Invalid"
	// ReasonReferenceNotFound means that a referenced object, or a key of a
	// referenced Secret, does not exist in this namespace.
	// Remedy: create it, or correct the reference.
	ReasonReferenceNotFound = "ReferenceNotFound"
	// ReasonAddressConflict means that a MAC address, an IP address or a network
	// is already in use, or no address is free.
	// Remedy: change one of the two; if no address is free, widen the network
	// or shrink the DHCP pool.
	ReasonAddressConflict = "AddressConflict"
	// ReasonHostnameConflict means that another target in the network has the same host
	// name. Dots in an object's name become dashes in its default host name.
	// Remedy: set `spec.hostname` of one of the two.
	ReasonHostnameConflict = "HostnameConflict"
	// ReasonBridgeNotAllowed means that the manager does not attach machines to the
	// bridge of a network.
	// Remedy: start the manager with `--allow-bridge=NAME`, or use mode Userspace.
	ReasonBridgeNotAllowed = "BridgeNotAllowed"
	// ReasonAddressOutside means that an address is not in the server's lab network.
	// Remedy: choose an address inside `spec.network.cidr` of the server.
	ReasonAddressOutside = "AddressOutsideNetwork"
	// ReasonArchitectureMismatch means that the target and its profile have different
	// architectures.
	// Remedy: refer to a profile for the target's architecture.
	ReasonArchitectureMismatch = "ArchitectureMismatch"
	// ReasonBadTemplate means that a template does not parse, uses a parameter
	// that the target does not set, exceeds a limit, is not UTF-8, or does not
	// render to valid cloud-config.
	// Remedy: the message has the line; add the parameter or correct the template.
	ReasonBadTemplate = "BadTemplate"
	// ReasonImageTooLarge means that the image does not fit on the target's
	// first disk.
	// Remedy: disks cannot be changed; create another target with a larger
	// first disk, or use a smaller image.
	ReasonImageTooLarge = "ImageTooLarge"
	// ReasonExceedsCapacity means that a machine cannot run on this host at all: its
	// memory exceeds the budget of the host or of a namespace, or a disk is larger than
	// the host's file system allows.
	// Remedy: the message has the figures; reduce `spec.machine.memory`, create another
	// target with a smaller disk, or raise the manager's flag that the message names.
	ReasonExceedsCapacity = "ExceedsCapacity"
	// ReasonInUse means that a server or profile is being deleted while
	// targets still use it.
	// Remedy: delete those targets, or let them refer to another object.
	ReasonInUse = "InUse"
)

// Reasons of artifacts and their delivery.
//
//reasons:table artifacts
const (
	// ReasonDownloading means that an artifact is being downloaded.
	// Remedy: wait; `status.progress` shows how far it is.
	ReasonDownloading = "Downloading"
	// ReasonConverting means that an artifact is being converted to the form
	// in which targets receive it.
	// Remedy: wait; `status.progress` shows how far it is.
	ReasonConverting = "Converting"
	// ReasonUploading means that configuration or content is being sent to the
	// provisioning server.
	// Remedy: wait; the message shows how far it is.
	ReasonUploading = "Uploading"
	// ReasonUnreachable means that the URL does not respond, or responds with
	// an HTTP error.
	// Remedy: check the URL and the network. The download is retried automatically.
	ReasonUnreachable = "Unreachable"
	// ReasonForbiddenAddress means that the URL of an artifact, or one to which it
	// redirects, leads to an address to which the manager does not connect on
	// behalf of a user.
	// Remedy: use another server, or let the administrator permit the address with
	// the manager's flag `--artifact-allow-cidr`.
	ReasonForbiddenAddress = "ForbiddenAddress"
	// ReasonTruncated means that the HTTP server ended the transfer early.
	// Remedy: wait; the download resumes automatically where it stopped.
	ReasonTruncated = "Truncated"
	// ReasonChecksumMismatch means that content does not match its checksum:
	// an artifact, the image that the installer received, or what it read back
	// from the disk. It also means that a SHA256SUMS or SHA512SUMS file does
	// not list the artifact.
	// Remedy: for an artifact, correct the checksum or the URL; its content
	// was not used. During an installation, check whether the image was
	// changed while it was served, and whether the disk loses writes.
	ReasonChecksumMismatch = "ChecksumMismatch"
	// ReasonNotFound means that the lab's image folder has no such file.
	// Remedy: run `make images`, or correct the path.
	ReasonNotFound = "NotFound"
	// ReasonUnsupported means that an artifact is damaged, is not in the
	// declared format, or is not a kernel, initrd or boot program for the
	// architecture. The message has what was found.
	// Remedy: for an image, set `format` to the actual format: qcow2, raw, raw.gz,
	// raw.xz or raw.zst. For other files, correct the URL, the path or the
	// architecture.
	ReasonUnsupported = "UnsupportedFormat"
	// ReasonUnsupportedLayout means that the partition table of an image is damaged, its
	// root partition cannot be determined, or its root is of a kind that is not
	// supported, such as LVM. No disk was written to, unless several partitions hold a
	// system on XFS or btrfs.
	// Remedy: the message has the cause. If several partitions hold a system, set
	// `spec.image.root` of the profile; otherwise use or repair the image.
	ReasonUnsupportedLayout = "UnsupportedLayout"
	// ReasonTooLarge means that an artifact, or a profile's text, is larger
	// than pxelab accepts.
	// Remedy: use a smaller one.
	ReasonTooLarge = "TooLarge"
	// ReasonNoSpace means that a disk of the host is full, or the installer
	// found no disk that is large enough for the image. On a full host, a machine
	// whose disk cannot grow is suspended.
	// Remedy: on the host, free space; the message has the path and the number
	// of missing bytes. Downloads and machines resume within seconds. For an
	// installation, create another target with a larger disk, or use a
	// smaller image.
	ReasonNoSpace = "NoSpace"
	// ReasonArtifactError means that an artifact could not be prepared for
	// another reason.
	// Remedy: read the message and the manager's log.
	ReasonArtifactError = "ArtifactError"
	// ReasonNoIPXEProgram means that no iPXE program was found for an architecture.
	// Remedy: run `make images`, install the distribution's package `ipxe`, or
	// set `spec.ipxe` of the server.
	ReasonNoIPXEProgram = "NoIPXEProgram"
	// ReasonAvailable means that all content is available and verified.
	ReasonAvailable = "Available"
)

// Reasons of a virtual machine, of a target or a server.
//
//reasons:table machine
const (
	// ReasonStarting means that the machine has not started yet.
	// Remedy: wait; if it does not start within two minutes, read the
	// manager's log and `qemu.log` in the machine's directory.
	ReasonStarting = "Starting"
	// ReasonHostFull means that the machine waits for memory that other machines
	// use.
	// Remedy: wait, stop or delete other machines, reduce their memory, or raise the
	// manager's `--memory-budget`. `kubectl-lab capacity` lists the queue.
	ReasonHostFull = "HostFull"
	// ReasonInstallationsLimit means that the target waits for its installation until
	// fewer others are being installed.
	// Remedy: wait, or raise the manager's `--max-installations`. `kubectl-lab
	// capacity` lists the queue.
	ReasonInstallationsLimit = "InstallationsLimit"
	// ReasonNamespaceLimit means that the machine waits because other machines of its
	// namespace use up a limit.
	// Remedy: stop or delete other machines of the namespace, or raise the manager's
	// flag that the message names.
	ReasonNamespaceLimit = "NamespaceLimit"
	// ReasonExited means that QEMU exited unexpectedly.
	// Remedy: the message has the end of QEMU's output; `qemu.log` in the
	// machine's directory has all of it.
	ReasonExited = "ProcessExited"
	// ReasonRestartPending means that the machine ended, or had to be ended, by
	// itself, such as by a power-off of its guest, a failure of QEMU, or a
	// provisioning machine that hangs. It is started again after a pause that doubles
	// from one second to five minutes, and is one second again after ten minutes
	// without an end.
	// Remedy: the message has the cause, the number of ends in a row and the time of
	// the next start. To start at once, set `spec.power` of a target to `Off` and
	// then to `On`, or restart a server as described for `RestartNeeded`.
	ReasonRestartPending = "RestartPending"
	// ReasonDiskError means that the host failed to write to the machine's
	// disk for a reason other than lack of space. The machine is suspended and
	// the write is retried.
	// Remedy: check the host's kernel log; the message has the path.
	ReasonDiskError = "DiskError"
	// ReasonDiskMissing means that the file of a disk with an installed system was
	// deleted from the host. It is not replaced by a blank disk. A machine that runs
	// keeps running until it is powered off.
	// Remedy: restore the file that the message names, or raise
	// `spec.installGeneration` to install the target again.
	ReasonDiskMissing = "DiskMissing"
	// ReasonInternalError means that the accelerator failed and stopped the guest.
	// Remedy: read `qemu.log` in the machine's directory and the host's kernel
	// log. The machine of a server is restarted; of a target, kill the QEMU process,
	// and the machine is started again.
	ReasonInternalError = "InternalError"
	// ReasonUnresponsive means that the QEMU process is running but does not
	// respond to the manager, or that the record of the process cannot be read.
	// Remedy: if it persists, read `qemu.log` in the machine's directory. The machine
	// of a server is restarted after two minutes; of a target, kill the QEMU process,
	// and the machine is started again.
	ReasonUnresponsive = "Unresponsive"
	// ReasonSuspended means that the QEMU process is running but does not execute
	// the guest, for example after a kernel panic or the QMP command `stop`; the
	// message has QEMU's run state.
	// Remedy: read the serial log. If no administrator suspended the machine,
	// kill the QEMU process; the machine is started again.
	ReasonSuspended = "Suspended"
	// ReasonForcedOff means that a guest did not react to its power button
	// within 90 seconds and was powered off (Event).
	// Remedy: check that the image runs systemd-logind or acpid.
	ReasonForcedOff = "ForcedOff"
	// ReasonOrphaned means that a machine has no object: its finalizer was removed
	// by hand, the CRDs were deleted, or the cluster's data was restored (Event).
	// Remedy: restore the object, or wait: the message has when the machine is
	// removed, or how to remove it. See Machines without an object.
	ReasonOrphaned = "Orphaned"
	// ReasonMachineRemoved means that a machine without an object was removed; the
	// message has the directory of its disks if they were retained (Event).
	ReasonMachineRemoved = "MachineRemoved"
	// ReasonRunning means that the machine is running. The Event of that name
	// reports that the machine of a server was started.
	ReasonRunning = "Running"
	// ReasonStopped means that the machine is powered off.
	ReasonStopped = "Stopped"
	// ReasonPoweredOff means that the target is powered off as declared. The
	// Event of that name reports that the guest reacted to its power button.
	ReasonPoweredOff = "PoweredOff"
)

// Reasons of a ProvisioningServer.
//
//reasons:table server
const (
	// ReasonConnecting means that the machine is booting and netbootd does not
	// respond yet.
	// Remedy: wait; with software emulation this takes one to three minutes.
	// After ten minutes, read the machine's serial log.
	ReasonConnecting = "Connecting"
	// ReasonDisconnected means that netbootd no longer responds.
	// Remedy: read `kubectl-lab logs server/NAME`. The manager reconnects
	// automatically.
	ReasonDisconnected = "Disconnected"
	// ReasonAgentSilent means that netbootd accepts connections but no longer
	// responds: it hangs, or its machine does.
	// Remedy: wait a minute for its watchdog to restart it. If that does not
	// help, read `kubectl-lab logs server/NAME` and restart the machine as
	// described for `RestartNeeded`.
	ReasonAgentSilent = "AgentSilent"
	// ReasonUntrusted means that the manager and netbootd reject each other's
	// certificates, for example after a year without a manager.
	// Remedy: wait; the provisioning machine is restarted with new certificates.
	ReasonUntrusted = "Untrusted"
	// ReasonNotServing means that DHCP, TFTP, HTTP, DNS or NTP is not being served.
	// Remedy: read the message; it has the cause.
	ReasonNotServing = "NotServing"
	// ReasonRestarting means that the annotation `pxelab.io/restart` was set
	// and the machine is shutting down. An Event reports when it is off and
	// about to start again.
	// Remedy: wait; the machine is powered off if it does not shut down within
	// 90 seconds.
	ReasonRestarting = "Restarting"
	// ReasonFramesRefused means that a machine sent frames with addresses other
	// than its own, DHCP replies or router advertisements, or too many frames to
	// all machines; the network dropped them (Event).
	// Remedy: inspect what runs on the machine that the message names.
	// `status.network.refusedFrames` counts the frames. Machines nested in it
	// need NAT to reach the lab network, or `spec.network.uncheckedFrames`.
	ReasonFramesRefused = "FramesRefused"
	// ReasonConnected means that netbootd responds.
	ReasonConnected = "Connected"
	// ReasonServing means that the service is running.
	ReasonServing = "Serving"
)

// Reasons of a BareMetalTarget.
//
//reasons:table target
const (
	// ReasonWaitingForServer means that the target's server is not Ready, or
	// has not received the target's configuration yet.
	// Remedy: inspect the server.
	ReasonWaitingForServer = "WaitingForServer"
	// ReasonWaitingForProfile means that the target's profile is not Ready, or
	// that its templates are being checked with the target's values.
	// Remedy: inspect the profile.
	ReasonWaitingForProfile = "WaitingForProfile"
	// ReasonNoDiscover means that the server received no DHCP DISCOVER from
	// the firmware.
	// Remedy: check that the server is Ready, then read the serial log.
	// `PXE-E18` or `PXE-E16` right after `Start PXE over IPv4` means that
	// requests are sent but not answered; no such line means that the firmware
	// does not boot from the network.
	ReasonNoDiscover = "NoDiscover"
	// ReasonNoRequest means that the firmware did not accept the DHCP offer.
	// Remedy: look for another DHCP server on the network. `PXE-E18` or
	// `PXE-E16` in the serial log means that the firmware could not use the
	// offer.
	ReasonNoRequest = "NoRequest"
	// ReasonBootProgramNotFetched means that the firmware did not fetch iPXE completely
	// over TFTP.
	// Remedy: the message has the firmware's code and the server's last
	// warning. `PXE-E23`: the server sent an error; `PXE-E18` or `PXE-E35`: it
	// stopped responding.
	ReasonBootProgramNotFetched = "BootProgramNotFetched"
	// ReasonScriptNotFetched means that iPXE did not fetch its script, the kernel or
	// the initrd.
	// Remedy: wait for `IPXEError`, which has the cause; otherwise read the
	// serial log.
	ReasonScriptNotFetched = "ScriptNotFetched"
	// ReasonIPXEError means that iPXE stopped at an error.
	// Remedy: the message explains the error and has its URL at ipxe.org; see
	// iPXE errors.
	ReasonIPXEError = "IPXEError"
	// ReasonNothingToBoot means that the firmware could boot neither from the
	// network nor from a disk.
	// Remedy: check that the image supports UEFI and this architecture.
	ReasonNothingToBoot = "NothingToBoot"
	// ReasonInstallerNotStarted means that the kernel was sent but the installer did
	// not report.
	// Remedy: read the serial log; a driver may be missing, or memory too
	// small for the initrd.
	ReasonInstallerNotStarted = "InstallerNotStarted"
	// ReasonGuestPanicked means that the guest's kernel panicked.
	// Remedy: the message has the cause. During an installation, check the
	// kernel, initrd and `kernelArgs` of the profile and the size of the
	// memory; later, check the image.
	ReasonGuestPanicked = "GuestPanicked"
	// ReasonInitramfsShell means that the initramfs found no root file system
	// and opened an interactive shell.
	// Remedy: check `root=` on the image's kernel command line and the disk
	// drivers in its initrd.
	ReasonInitramfsShell = "InitramfsShell"
	// ReasonEmergencyMode means that systemd entered emergency mode.
	// Remedy: check `/etc/fstab` of the image and `mounts` in the user-data;
	// use `kubectl-lab console`.
	ReasonEmergencyMode = "EmergencyMode"
	// ReasonInstallerSilent means that the installer reports no progress.
	// Remedy: read the serial log, and check that the server is Ready.
	ReasonInstallerSilent = "InstallerSilent"
	// ReasonNoRootDisk means that no disk of the target matches `spec.rootDisk`, or none
	// that the installer found can have the image: it waited for slow controllers, and no
	// disk is writable, has the sector size of the image and matches `spec.rootDisk`.
	// Remedy: the message lists the disks and why each does not fit. Correct
	// `spec.rootDisk`, or use an image that was made for the disks' sector size.
	ReasonNoRootDisk = "NoRootDisk"
	// ReasonInstallerError means that the installer failed for another reason.
	// Remedy: the message has the error; correct its cause. See Installation attempts.
	ReasonInstallerError = "InstallerError"
	// ReasonNoPhoneHome means that the installed system did not report.
	// Remedy: the message has the last cloud-init stage that reported; read
	// the serial log or use `kubectl-lab console`.
	ReasonNoPhoneHome = "NoPhoneHome"
	// ReasonCloudInitFailed means that cloud-init finished with an error. The
	// message names the module and its stage.
	// Remedy: see cloud-init failures.
	ReasonCloudInitFailed = "CloudInitFailed"
	// ReasonNoSSH means that the system is up but its SSH port does not respond.
	// Remedy: check that the image runs an SSH server, that the user-data does
	// not disable it, and that no firewall blocks it.
	ReasonNoSSH = "SSHNotAnswering"
	// ReasonAttemptFailed means that an installation attempt failed (Event).
	// Remedy: read the message. See Installation attempts.
	ReasonAttemptFailed = "AttemptFailed"
	// ReasonNetworkBoot means that the target is booting from the network.
	ReasonNetworkBoot = "NetworkBoot"
	// ReasonInstalling means that the installer is running.
	ReasonInstalling = "Installing"
	// ReasonBooting means that the installed system is booting.
	ReasonBooting = "Booting"
	// ReasonInstalled means that the disk holds the declared installation.
	ReasonInstalled = "Installed"
	// ReasonInstalledWithWarnings means that the disk holds the declared installation, but
	// the installer could not do everything: for example, the root partition was not grown
	// because another one follows it (condition Installed, and Event).
	// Remedy: read the message. To use the whole disk, use an image whose root
	// partition comes last, or is followed by swap only.
	ReasonInstalledWithWarnings = "InstalledWithWarnings"
	// ReasonInstallStarted means that the disks were replaced with blank ones
	// for a new installation or attempt (Event).
	ReasonInstallStarted = "InstallStarted"
	// ReasonNoRetainedDisks means that there are no retained disks as `source.retained`
	// declares, several deleted targets of that name have some, or another target has
	// adopted them.
	// Remedy: `make status` lists retained disks. Create the target again with the UID
	// of one of them.
	ReasonNoRetainedDisks = "NoRetainedDisks"
	// ReasonRetainedDisksInUse means that `source.retained` names a target that exists.
	// Remedy: delete that target with `spec.diskRetention: Retain`; the disks are adopted
	// when it is gone.
	ReasonRetainedDisksInUse = "RetainedDisksInUse"
	// ReasonRetainedDisksMismatch means that retained disks are not those that the target
	// declares, for example because one is larger.
	// Remedy: the message has the difference. Create the target again as they require.
	ReasonRetainedDisksMismatch = "RetainedDisksMismatch"
	// ReasonDisksAdopted means that a target has adopted the disks of a deleted one
	// (Event).
	// Remedy: nothing to do. `status.adoption` names the origin.
	ReasonDisksAdopted = "DisksAdopted"
	// ReasonDisksRetained means that the disks of a deleted target were kept;
	// the message has the directory (Event).
	ReasonDisksRetained = "DisksRetained"
)

// Reasons of the life cycle of any object.
//
//reasons:table lifecycle
const (
	// ReasonProfileChanged means that the profile has changed since the disk
	// was installed (condition UpToDate).
	// Remedy: raise `spec.installGeneration`, or set
	// `spec.profileChangePolicy` to `Reinstall`.
	ReasonProfileChanged = "ProfileChanged"
	// ReasonNetworkWidened means that the lab network of a server was widened
	// (an Event).
	ReasonNetworkWidened = "NetworkWidened"
	// ReasonReinstallNeeded means that a field of the target, or the domain, name servers
	// or gateway of its network, was changed since the disk was installed, or the lab
	// network was widened. After a widening the installed system still has the former prefix and reaches only that part of the network and
	// its server directly (condition UpToDate). `status.pendingChanges` lists the fields.
	// Remedy: raise `spec.installGeneration`, undo the change, or change the prefix in
	// the installed system.
	ReasonReinstallNeeded = "ReinstallNeeded"
	// ReasonUnknownProfile means that it was not recorded what the disk was
	// installed from, or was recorded with another key of the data directory
	// (`digest.key`) or by another version of pxelab, so a change of the profile
	// cannot be detected (condition UpToDate, Unknown).
	// Remedy: none is required. To record it, raise `spec.installGeneration`,
	// which installs the target again.
	ReasonUnknownProfile = "UnknownProfile"
	// ReasonRestartNeeded means that the spec of a machine has changed since the machine
	// started (condition UpToDate). `status.pendingChanges` lists the fields.
	// Remedy: of a server, run `kubectl annotate provisioningserver NAME
	// pxelab.io/restart=now`; of a target, set `spec.power` to `Off` and then to `On`.
	ReasonRestartNeeded = "RestartNeeded"
	// ReasonNotInstalled means that the disk does not hold the declared
	// installation (conditions Installed and UpToDate).
	// Remedy: wait, or check the condition Progressing.
	ReasonNotInstalled = "NotInstalled"
	// ReasonNotYetObserved means that the manager has not observed the object since it
	// started, and that what an earlier manager recorded does not hold any more, or
	// cannot be confirmed (condition Ready, Unknown).
	// Remedy: wait; if it persists, check that the target's server is Ready, and read
	// the manager's log.
	ReasonNotYetObserved = "NotYetObserved"
	// ReasonLabDown means that the lab was stopped, by `make down` or with the
	// manager's pod, and that the machine is off.
	// Remedy: run `make up`; in a cluster, check the manager's Deployment.
	ReasonLabDown = "LabDown"
	// ReasonPaused means that the annotation `pxelab.io/paused` is set.
	// Remedy: remove the annotation with `kubectl annotate KIND NAME
	// pxelab.io/paused-`.
	ReasonPaused = "Paused"
	// ReasonFailed means that the manager could not complete a step on the host,
	// or netbootd rejected its configuration. The step is retried.
	// Remedy: read the message and the manager's log.
	ReasonFailed = "Failed"
	// ReasonReady means that the object is in its declared state.
	ReasonReady = "Ready"
	// ReasonValid means that the spec is valid.
	ReasonValid = "Valid"
	// ReasonUpToDate means that the disk holds the current profile, or that
	// the server's machine runs with its current spec.
	ReasonUpToDate = "UpToDate"
	// ReasonDeleting means that the object is being deleted and its machine is
	// being stopped.
	ReasonDeleting = "Deleting"
)
