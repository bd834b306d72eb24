// SPDX-License-Identifier: Apache-2.0

// Package controllers reconciles the three kinds. Each reconciler observes, asks
// internal/plan for the desired state, acts through the interfaces of Host, and records
// what it observed in the object's status. Downloads and shutdowns run in background
// tasks, whose result is observed.
//
// reconcileObject is the part that the reconcilers share. Each runs its steps in order;
// a step observes, compares, acts at most once and returns.
package controllers
