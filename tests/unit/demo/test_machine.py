from dpace_serve.demo.machine import this_machine


def test_the_cpu_is_named_as_the_kernel_names_it(tmp_path):
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("processor\t: 0\nmodel name\t: Fast  CPU @ 3 GHz\nmodel name\t: Other\n")
    machine = this_machine(cpu_info)
    assert machine.cpu == "Fast CPU @ 3 GHz"
    assert machine.num_cores >= 1


def test_a_machine_without_cpu_information_still_has_a_name(tmp_path):
    assert this_machine(tmp_path / "missing").cpu
