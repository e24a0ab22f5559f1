/** What `gupbed --help` and `gupbed COMMAND --help` print. */

const OVERVIEW = `gupbed: an emulated-hardware and guest-VM testbed for Linux's get_user_pages()

usage: gupbed COMMAND [ARGUMENTS]

commands:
  run GUEST.elf        run a guest program under the hypervisor, its memory on the host model
  bare FILE.elf        run a bare-metal program on the emulated board, in M-mode, with no host
  fight                the main job: guests and DMA at work while the host moves their memory
  resume FILE          go on with a machine that \`run --save\` or \`fight --save\` has saved
  inspect FILE VIEW    what /proc of a saved machine's host says, and who holds a frame
  audit                every user of GUP: its API under a policy, its hold, what is unsafe about it
  bench [SUITE...]     measure: translate, hart, gup, kvm, dma
  harm [HOLDER...]     what held pages keep a host from: CMA, offlining, compaction, long-term pins
  crash-states GUEST   what a loss of power can leave of persistent memory, image by image
  fuzz [TARGET...]     hostile guests against every device, by seed
  explore NAME         every interleaving of a small scenario, up to a bound on preemptions
  selftest [PATTERN]   the matrix of the kernel's COW self-test: every kind of memory, by its bytes

options of every command:
  --help, -h           what it does, its options and an example
  --json               one JSON value instead of text (what depends on the host is under "host")
  --version            print the version

exit codes: 0 done, 1 the guest or a check failed, 2 wrong input or usage, 130 interrupted
`;

const COMMANDS: Record<string, string> = {
  run: `usage: gupbed run GUEST.elf [GUEST.elf...] [options]

Runs an unmodified riscv64 program in VS-mode on an emulated hart behind two-stage translation. Its
memory belongs to a host process of the model; SBI, a UART, a PLIC and a DMA engine are provided.
Several programs run in as many VMs on one host; devices are plugged into the first.

  --memory SIZE            guest memory, 4M to 3G (default 64M)
  --harts N                virtual CPUs, 1 to 7, the others started by SBI HSM (default 1)
  --quantum N              turns of N instructions, in order, instead of turns by the seed
  --dirty-log KIND         with --activity: bitmap, manual (protected later) or ring (default bitmap)
  --seed N                 seed of every random choice (default 1)
  --max-instructions N     stop, with exit code 1, after N retired instructions
  --policy NAME            what users of GUP take: linux-6.5, linux-7 or target (default linux-7)
  --param N                a number for the guest program, up to four times (guests/README.md)
  --backing KIND           what is behind the guest's memory: mixed, anon, thp, shmem, hugetlb, file,
                           fsdax, devdax or gmem (default mixed: half anon, half shmem)
  --iommu MODE             devices behind the host's IOMMU: off, strict, deferred (invalidated later) or
                           sva (the process's own addresses, faulted in on demand; default off)
  --disk FILE|SIZE         a virtio disk: an image file, or an empty one that goes; repeatable
  --pmem FILE|SIZE         persistent memory by virtio, in the same way
  --nvdimm FILE|SIZE       an NVDIMM, in the same way (an image has 132K more than its memory)
  --persistence MODE       of the NVDIMM: adr, eadr or none (default adr)
  --power-fail-at N        lose power after N instructions, or with event N of the NVDIMM (event:N)
  --rdma pin|odp           two RDMA adapters back to back; memory regions pinned, or paged on demand
  --device NAME            rng, console or balloon, by virtio; iommu, the guest's own; repeatable
  --activity               let the host migrate, write-protect, remap and fork meanwhile
  --provenance             write down who holds each frame by GUP (gupbed inspect shows it)
  --save FILE --save-at N  save the machine at the first quiet moment after N instructions, and stop
  --json                   one JSON object

example: gupbed run guests/bin/hello.elf --memory 32M
`,
  bare: `usage: gupbed bare FILE.elf [options]

Runs a bare-metal program in M-mode on a board with the memory map of QEMU's virt machine.

  --memory SIZE            RAM, 1M to 3G (default 64M)
  --harts N                harts, 1 to 8 (default 1)
  --iommu                  a RISC-V IOMMU in front of the DMA engine, Bare after reset
  --param N                a number for the program, up to four times (guests/README.md)
  --max-instructions N     stop, with exit code 1, after N retired instructions
  --json                   one JSON object

example: gupbed bare guests/bin/bare-hello.elf
`,
  fight: `usage: gupbed fight [options]

Runs memwalk and dmacopy as two guests of one host. While they check every byte of their memory,
the host migrates, write-protects, remaps and forks it under them; prints what happened.

  --seed N                 seed of every random choice (default 1)
  --policy NAME            what users of GUP take: linux-6.5, linux-7 or target (default linux-7)
  --max-instructions N     stop, with exit code 1, after N retired instructions
  --provenance             write down who holds each frame by GUP (gupbed inspect shows it)
  --save FILE --save-at N  save the machine at the first quiet moment after N instructions, and stop
  --json                   one JSON object

example: gupbed fight --seed 7
`,
  resume: `usage: gupbed resume FILE [options]

Goes on with a saved machine, as if it had never stopped.

  --max-instructions N     stop, with exit code 1, after N retired instructions (in total)
  --save FILE --save-at N  save it again at the first quiet moment after N instructions (in total)
  --json                   one JSON object

example: gupbed resume walk.gup
after:   gupbed run guests/bin/memwalk.elf --save walk.gup --save-at 20000000
`,
  inspect: `usage: gupbed inspect FILE VIEW [ARGUMENTS] [--json]

Looks into the host of a saved machine, in the formats of Linux's /proc. Views:

  processes                  the host's processes: a guest's VMM has the guest's name
  maps PID, smaps PID        /proc/PID/maps and smaps
  pagemap PID [HVA [N]]      /proc/PID/pagemap: what is there, or N pages from HVA (default 1)
  meminfo, vmstat            /proc/meminfo and vmstat
  buddyinfo, pagetypeinfo,   free memory by zone, size and migratetype
  zoneinfo
  kpageflags [PFN [N]]       /proc/kpageflags: frames by their flags, or N frames from PFN (default 1)
  frame PFN                  who holds the frame: entries, caches, pipes, and references and pins by
                             function and user, where the machine ran with --provenance

PID may be left out where there is one process.

  --json                     one JSON value instead of text

example: gupbed inspect dma.gup smaps
after:   gupbed run guests/bin/dmacopy.elf --activity --provenance --save dma.gup --save-at 3000000
`,
  audit: `usage: gupbed audit [options]

Prints every user of GUP in the model: which API it takes under a policy, how long it holds pages,
who marks them dirty, whether notifiers reach it, and what is unsafe about it.

  --policy NAME            linux-6.5, linux-7 or target (default linux-7)
  --set USER=API           the policy with one user changed, any number of times
  --json                   one JSON object

example: gupbed audit --policy target
`,
  bench: `usage: gupbed bench [SUITE...] [options]

Measures, each figure beside a limit that is measured in the same run. Suites: translate (TLB hit,
misses in one and two stages, page touch and pointer chase by working set), hart (the interpreter),
gup (GUP-fast and PIN-fast by batch and mapping size, present and faulted in; direct I/O, writeback,
CMA and offlining).

  --rounds N               samples of each figure, 3 to 99 (default 5); medians are printed
  --json                   an array of rows

example: gupbed bench translate --rounds 7
`,
  harm: `usage: gupbed harm [HOLDER...] [options]

Loads a host with zones and CMA, has the same pages held by each kind of user in turn, and measures
what can still be done: allocating CMA, taking a block of memory out of use, compaction, pinning
the memory for long. Prints how much of it worked, and who had the pages that did not move.

  HOLDER                   these alone: nobody, kvm, rdma-odp, block-dio, nfs-dio, vmsplice,
                           io-uring-buffers, rdma, vfio
  --policy NAME            linux-6.5, linux-7 or target (default linux-7)
  --set USER=API           the policy with one user changed, any number of times (gupbed audit)
  --ram SIZE               memory of the host, 512M to 3G (default 2G)
  --seed N                 seed of every random choice (default 1)
  --json                   one JSON object

example: gupbed harm --policy target
`,
  'crash-states': `usage: gupbed crash-states GUEST.elf [options]

Loses power at instructions of a guest's run that are chosen by seed. What can be left of its persistent
memory then is judged image by image, by a checker that does what recovery does. A promise is a line that
the guest prints and that ends in "committed N". When one can be broken, the shortest history is printed.

  --pmem SIZE              persistent memory by virtio: durable is what was flushed to the host's file
  --nvdimm SIZE            an NVDIMM: durable is what was written back and fenced
  --persistence MODE       of the NVDIMM: adr, eadr or none (default adr)
  --checker PROGRAM        a bare-metal guest that gets N and the size as parameters; or a program of
                           this computer that gets the names of the image's and the output's file, and
                           ends with 0 for a good image (default: GUEST-recover.elf)
  --points N               instructions at which power fails (default 1000)
  --images N               images of one point, at most (default 64)
  --param N                a number for the guest program, up to four times
  --memory SIZE            guest memory (default 16M)
  --seed N, --policy NAME, --max-instructions N, --json as of gupbed run

exit code: 1 when a promise can be broken
example: gupbed crash-states guests/bin/txlog.elf --pmem 64K --param 2 --points 100
`,
  fuzz: `usage: gupbed fuzz [TARGET...] [options]

Attacks devices from the guest's side: registers, rings, descriptors and tables full of nonsense, with
what is nearly right mixed in. A case fails when the host throws, when a device does not come to an
end, and when a byte changes outside what the guest offered.

  TARGET                   these devices alone; without one the cases are shared out among all
  --cases N                cases in all (default 100000)
  --seed N                 seed of every random choice (default 1)
  --case N                 the case with this number alone, of one target, as a failure prints it
  --json                   one JSON object

exit code: 1 when a case fails
example: gupbed fuzz iommu --cases 20000
`,
  selftest: `usage: gupbed selftest [PATTERN] [options]

Runs the matrix of the Linux kernel's self-test cow on the host model, by its names: fork, vmsplice,
fixed buffers of io_uring and pins, each with every kind of memory. A row is ok when every process,
pipe and pin sees the bytes that it must see, and nothing is left of the row afterwards. Or that of
gup_longterm: which files may be pinned for good, for reading and for writing.

  PATTERN                  only rows with this in their names; * stands for anything
  --suite NAME             cow or gup_longterm (default cow)
  --policy NAME            what users of GUP take: linux-6.5, linux-7 or target (default linux-7)
  --set USER=API           the policy with one user changed, any number of times (gupbed audit)
  --gigantic               rows with hugetlb pages of 1 GiB as well: 3 GiB of memory, a minute
  --list                   print the names of the rows and run nothing
  --tap                    TAP 13, as the kernel's self-tests print it
  --json                   one JSON object

exit code: 1 when a row is not ok, otherwise 0; a row that was skipped says why
example: gupbed selftest 'vmsplice*hugetlb' --policy target
`,
  explore: `usage: gupbed explore NAME [options]
       gupbed explore list

Runs a scenario in every order in which its actors can meet, with at most so many preemptions, and
again with one rule taken away at a time. Exit code 0: with every rule nothing goes wrong, and
without one of them something does; each such schedule is printed, as short as it could be made.

  --variant NAME           this variant only: right, or the name of what is left out
  --bound N                preemptions, 0 to 1000 (default: the scenario's own)
  --out FILE               write the schedule that goes wrong to a replay file, with --variant
  --replay FILE            run the schedule of a replay file, and nothing else
  --json                   one JSON object

example: gupbed explore pin-share --variant no-pin-barrier --out missed.json
after:   gupbed explore pin-share --replay missed.json
`,
};

/** The help of a command that isCommand() knows, or the overview. */
export const helpText = (command?: string): string =>
  command === undefined ? OVERVIEW : COMMANDS[command]!;

/** Is this the name of a command? */
export const isCommand = (word: string): boolean => Object.hasOwn(COMMANDS, word);
