// SPDX-License-Identifier: Apache-2.0

// Package cidata builds the ISO 9660 image from which cloud-init's NoCloud data
// source configures a machine. The image also contains other files that the
// machine needs to start: programs, configuration, credentials.
//
// Every cloud image can read ISO 9660 without extensions, but that format only
// supports lower-case names of at most 28 characters in one folder. The package
// rejects names that would be truncated, changed or overwritten, and reads back
// every image before it is used. It does not interpret the files.
package cidata
